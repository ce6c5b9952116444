"""What is trained of a model: rows, blocks, LISA, ReLoRA, Spectrum."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.checks.distributed import fsdp_key, has_fsdp
from siredon.config.idle import find_idle_keys, find_useless_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.distributed import DeepspeedSection, FsdpSection
from siredon.config.sections.freezing import FreezingSection, LisaSection, ReloraSection, read_layers
from siredon.config.sections.optimizer import OptimizerSection
from siredon.config.sections.quantization import QuantizationSection


def _check_rows(freezing: FreezingSection) -> Iterator[Finding]:
    """Rows in `unfrozen_parameters` begin before they end.

    `[a:b]` are the rows from `a`, counted from 0, up to and without `b`.
    """
    for index, pattern in enumerate(freezing.patterns):
        if pattern.has_rows and pattern.end is not None and pattern.first >= pattern.end:
            yield Finding(
                f"unfrozen_parameters.{index}",
                f"`{pattern.text}` has no rows: {pattern.first} is not before {pattern.end}",
                "Write the first row and one past the last: `[0:128]`.",
            )


def _check_numbers(freezing: FreezingSection) -> Iterator[Finding]:
    """Blocks in `freeze_layers` are numbers, or ranges of them such as `0-3`."""
    for index, text in enumerate(freezing.freeze_layers or ()):
        numbers = read_layers(text)
        if not numbers:
            several = len(freezing.freeze_layers or ()) > 1
            yield Finding(
                f"freeze_layers.{index}" if several else "freeze_layers",
                f"`{text}` is no block, and no range of blocks",
                "Write numbers from 0, such as `[0, 1]`, or a range with both ends, such as `0-3`.",
            )


def _sharding_key(fsdp: FsdpSection, deepspeed: DeepspeedSection) -> str:
    """The key that spreads weights over GPUs; empty if none does."""
    if deepspeed.deepspeed:
        return "deepspeed"
    return fsdp_key(fsdp) if has_fsdp(fsdp) else ""


def _check_whole_rows(
    freezing: FreezingSection, optimizer: OptimizerSection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """Rows are put back after each step, where weights are whole and an optimizer keeps no others of its own.

    FSDP and DeepSpeed hold parts of a weight.  Schedule-free optimizers hold a second copy of it, in which weight
    decay would shrink the rows.
    """
    if not any(pattern.has_rows for pattern in freezing.patterns):
        return
    sharding = _sharding_key(fsdp, deepspeed)
    free = optimizer.optimizer if optimizer.optimizer.startswith("schedule_free") else ""
    for other in (sharding and f"`{sharding}`", free and f"`optimizer: {free}`"):
        if other:
            yield Finding(
                "unfrozen_parameters",
                f"rows in `unfrozen_parameters` do not work with {other}",
                "Train the whole weight, or choose another way of training.",
            )


def _check_lisa(lisa: LisaSection, fsdp: FsdpSection, deepspeed: DeepspeedSection) -> Iterator[Finding]:
    """LISA freezes and frees blocks as the run goes, which weights that are sharded do not allow."""
    sharding = _sharding_key(fsdp, deepspeed)
    if lisa.lisa_n_layers is not None and sharding:
        yield Finding(
            "lisa_n_layers",
            f"LISA does not work with `{sharding}`",
            f"Remove `lisa_n_layers`, or `{sharding}`.",
        )


#: What ReLoRA cannot merge, or begin anew with.
_NOT_RESTARTED = (
    "peft_use_dora",
    "peft_init_lora_weights",
    "peft_layer_replication",
    "peft_trainable_token_indices",
    "lora_target_parameters",
)
_FEW_BITS = ("load_in_4bit", "load_in_8bit", "load_in_torchao", "gptq", "model_quantization_config")


def _check_merged(
    relora: ReloraSection, adapter: AdapterSection, quantization: QuantizationSection
) -> Iterator[Finding]:
    """ReLoRA merges plain LoRA into whole weights.

    In weights of few bits most of a merge is rounded off.  A start of another kind changes the base, which would
    have to happen at every restart.
    """
    if not relora.relora:
        return
    adapted, rounded = adapter.model_dump(), quantization.model_dump()
    found = [name for name in _FEW_BITS if rounded.get(name)]
    found += [name for name in _NOT_RESTARTED if adapted.get(name)]
    found += ["peft.loftq_config"] if "loftq_config" in adapter.peft else []
    for name in found:
        yield Finding(name, f"`{name}` does not work with `relora: true`", f"Remove `{name}`, or `relora`.")


def _check_state(relora: ReloraSection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """A part of an optimizer's state can be cleared where it is not rounded to few bits.

    All of it can be dropped.
    """
    name = optimizer.optimizer
    rounded = any(mark in name for mark in ("8bit", "4bit", "fp8"))
    if relora.relora and relora.relora_prune_method != "reset" and rounded:
        yield Finding(
            "relora",
            f"`optimizer: {name}` keeps rounded state, of which ReLoRA cannot clear a part",
            "Write `relora_prune_method: reset`, or choose another optimizer.",
        )


def _check_idle(relora: ReloraSection, freezing: FreezingSection) -> Iterator[Finding]:
    """Settings of Spectrum and of ReLoRA come with what they set.

    `relora_prune_method: reset` clears all state, whatever the ratio.
    """
    if relora.relora and relora.relora_prune_method == "reset":
        yield from find_useless_keys(relora, ("relora_prune_ratio",), "with `relora_prune_method: reset`")
    if freezing.spectrum_top_fraction is None:
        yield from find_idle_keys(freezing, ("spectrum_model_name",), "`spectrum_top_fraction`")


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_RELORA = _LORA + "relora: true\njagged_restart_steps: 500\n"
_ROWS = "unfrozen_parameters: ['model.embed_tokens.weight$[:128]']\n"

RULES = (
    Rule(
        "SD0590",
        _check_rows,
        wrong="unfrozen_parameters: ['model.embed_tokens.weight$[128:64]']",
        right="unfrozen_parameters: ['model.embed_tokens.weight$[64:128]']",
    ),
    Rule("SD0591", _check_numbers, wrong="freeze_layers: 0-", right="freeze_layers: 0-3"),
    Rule(
        "SD0592",
        _check_whole_rows,
        wrong=_ROWS + "deepspeed: zero2.json",
        right=_ROWS + "ddp: true",
    ),
    Rule(
        "SD0593",
        _check_lisa,
        wrong="lisa_n_layers: 2\nlisa_step_interval: 20\ndeepspeed: zero2.json",
        right="lisa_n_layers: 2\nlisa_step_interval: 20\nddp: true",
    ),
    Rule(
        "SD0594",
        _check_merged,
        wrong=_RELORA + "peft_use_dora: true",
        right=_RELORA + "peft_use_rslora: true",
    ),
    Rule(
        "SD0595",
        _check_state,
        wrong=_RELORA + "optimizer: adamw_bnb_8bit",
        right=_RELORA + "optimizer: adamw_bnb_8bit\nrelora_prune_method: reset",
    ),
    Rule(
        "SD0596",
        _check_idle,
        wrong="spectrum_model_name: some/model",
        right="spectrum_model_name: some/model\nspectrum_top_fraction: 0.25",
    ),
)
