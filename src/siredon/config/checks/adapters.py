"""Adapters, the weights with few bits beside them, and other ways of training a part of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator

from siredon.config.checks.distributed import has_fsdp
from siredon.config.idle import find_idle_keys, keys_asking, keys_but, keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection, is_pattern
from siredon.config.sections.distributed import DeepspeedSection, FsdpSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.freezing import FreezingSection, LisaSection, ReloraSection
from siredon.config.sections.kernels import KernelSection
from siredon.config.sections.optimizer import ScheduleSection
from siredon.config.sections.quantization import QuantizationSection


def _check_bits(adapter: AdapterSection, quantization: QuantizationSection) -> Iterator[Finding]:
    """Weights in 4 bits come with `adapter: qlora`, weights held in 8 bits with `adapter: lora`.

    Rounded weights cannot be trained, only an adapter beside them.  Axolotl passes over `load_in_4bit` with
    `adapter: lora`, and loads every weight in full.
    """
    ways = quantization.ways
    if len(ways) > 1:
        return
    if adapter.adapter == "qlora" and not quantization.load_in_4bit:
        message, fix = "`adapter: qlora` needs `load_in_4bit: true`", "Add it, or write `adapter: lora`."
        if ways:
            message = f"`adapter: qlora` is for weights in 4 bits by bitsandbytes, not for `{ways[0]}`"
            fix = "Write `adapter: lora`, or `load_in_4bit: true` in place of it."
        yield Finding("adapter", message, fix)
    held = (
        ("load_in_4bit", "qlora", "true"),
        ("load_in_8bit", "lora", "true"),
        ("load_in_torchao", "lora", quantization.load_in_torchao),
        ("gptq", "lora", "true"),
    )
    for name, needed, value in held:
        if name in ways and adapter.adapter not in (needed, "qlora"):
            yield Finding(
                "adapter" if adapter.adapter else name,
                f"`{name}: {value}` needs `adapter: {needed}`",
                f"Write `adapter: {needed}`, or remove `{name}`.",
            )


def _check_quantizers(quantization: QuantizationSection) -> Iterator[Finding]:
    """Weights are rounded in one way.

    Of several, one would win and the others be passed over.
    """
    ways = quantization.ways
    if len(ways) > 1:
        yield Finding(ways[-1], f"{list_keys(ways)} exclude each other", "Keep one of them.")


#: Reported elsewhere, or of use when an adapter is merged.
_NOT_OF_TRAINING = (
    "adapter",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_linear",
    "lora_modules_to_save",
    "peft",
    "loraplus_lr_embedding",
    "lora_on_cpu",
    "merge_method",
)
_LORA_KEYS = keys_but(AdapterSection, *_NOT_OF_TRAINING)
_FUSED_KEYS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def _check_idle(
    adapter: AdapterSection,
    quantization: QuantizationSection,
    kernels: KernelSection,
    relora: ReloraSection,
) -> Iterator[Finding]:
    """Settings of an adapter, of rounded weights and of ReLoRA come with what they set.

    Alone they have no effect.
    """
    if not adapter.is_lora:
        if adapter.adapter is None:
            yield from find_idle_keys(adapter, keys_asking(adapter, _LORA_KEYS), "`adapter: lora`")
        yield from find_idle_keys(kernels, keys_asking(kernels, _FUSED_KEYS), "`adapter: lora`")
    if adapter.adapter != "qlora":
        yield from find_idle_keys(quantization, ("qlora_sharded_model_loading",), "`adapter: qlora`")
    if adapter.loraplus_lr_ratio is None:
        yield from find_idle_keys(adapter, ("loraplus_lr_embedding",), "`loraplus_lr_ratio`")
    if not quantization.load_in_4bit and not quantization.load_in_8bit:
        yield from find_idle_keys(quantization, ("bnb_config_kwargs",), "`load_in_4bit: true`")
    if not quantization.ways:
        yield from find_idle_keys(quantization, ("merge_base",), "weights in few bits")
    if not quantization.model_quantization_config:
        needed = "`model_quantization_config`"
        yield from find_idle_keys(quantization, ("model_quantization_config_kwargs",), needed)
    if not relora.relora:
        yield from find_idle_keys(relora, keys_but(ReloraSection, "relora"), "`relora: true`")


def _check_parameters(adapter: AdapterSection) -> Iterator[Finding]:
    """LoRA on bare tensors is plain LoRA: no dropout, no DoRA, no transposed weights.

    Such a tensor is used as a whole, so there is no input of a layer on which dropout could act.
    """
    if not adapter.lora_target_parameters:
        return
    for name, is_on in (
        ("lora_dropout", adapter.lora_dropout > 0),
        ("peft_use_dora", adapter.peft_use_dora),
        ("lora_fan_in_fan_out", adapter.lora_fan_in_fan_out),
    ):
        if is_on:
            message = f"`{name}` does not work with `lora_target_parameters`"
            yield Finding(name, message, f"Remove `{name}`, or `lora_target_parameters`.")


def _check_layers(adapter: AdapterSection) -> Iterator[Finding]:
    """`peft_layers_pattern` names the list that the numbers in `peft_layers_to_transform` count."""
    if adapter.peft_layers_pattern and not adapter.peft_layers_to_transform:
        yield Finding(
            "peft_layers_pattern",
            "`peft_layers_pattern` needs `peft_layers_to_transform`",
            "Add `peft_layers_to_transform: [0, 1]`, for example, or remove the key.",
        )


def _check_patterns(adapter: AdapterSection, freezing: FreezingSection) -> Iterator[Finding]:
    """Regular expressions can be read as such.

    A plain name is none: only one with a special character other than a dot is looked at.
    """
    asked = [(f"lora_target_modules.{i}", text) for i, text in enumerate(adapter.lora_target_modules)]
    asked += [(f"lora_exclude_modules.{i}", text) for i, text in enumerate(adapter.lora_exclude_modules)]
    asked += [("lora_rank_pattern", text) for text in adapter.lora_rank_pattern or ()]
    asked += [("lora_alpha_pattern", text) for text in adapter.lora_alpha_pattern or ()]
    asked += [(f"unfrozen_parameters.{i}", found.name) for i, found in enumerate(freezing.patterns)]
    for name, text in asked:
        reason = _why_unreadable(text) if is_pattern(text) else ""
        if reason:
            yield Finding(
                name,
                f"`{text}` in `{name.partition('.')[0]}` is no regular expression: {reason}",
                "Mend it, or write the plain name.",
            )


def _why_unreadable(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        return error.msg
    return ""


def _check_trained(
    adapter: AdapterSection, lisa: LisaSection, freezing: FreezingSection
) -> Iterator[Finding]:
    """One key says which weights are trained: `adapter`, LISA's, Spectrum's, `unfrozen_parameters`, `freeze_layers`.

    They undo each other: LISA and Spectrum free weights that an adapter holds frozen, and
    `unfrozen_parameters` freezes the adapter.
    """
    ways = ["adapter"] if adapter.adapter else []
    ways += keys_set(lisa, ("lisa_n_layers",))
    ways += keys_set(freezing, ("spectrum_top_fraction", "unfrozen_parameters", "freeze_layers"))
    if len(ways) > 1:
        fix = "Keep one of them."
        if adapter.adapter:
            fix += " On which layers an adapter is, `lora_target_modules` says."
        yield Finding(ways[-1], f"{list_keys(ways)} each say which weights are trained", fix)


def _check_lisa(lisa: LisaSection) -> Iterator[Finding]:
    """LISA knows how many layers it trains at a time, and for how many steps."""
    numbers = {"lisa_n_layers": lisa.lisa_n_layers, "lisa_step_interval": lisa.lisa_step_interval}
    given = [name for name, number in numbers.items() if number is not None]
    if len(given) == 1:
        (lacking,) = numbers.keys() - set(given)
        yield Finding(given[0], f"`{given[0]}` needs `{lacking}`", f"Add `{lacking}`, or remove the key.")
    if not given:
        yield from find_idle_keys(lisa, ("lisa_layers_attribute",), "`lisa_n_layers`")


def _check_relora(
    relora: ReloraSection,
    adapter: AdapterSection,
    schedule: ScheduleSection,
    fsdp: FsdpSection,
    deepspeed: DeepspeedSection,
) -> Iterator[Finding]:
    """ReLoRA has an adapter that is merged, steps after which it is, and whole weights to merge into.

    The learning rate restarts with each merge; `one_cycle` cannot.
    """
    if not relora.relora:
        return
    if adapter.adapter not in ("lora", "qlora"):
        yield Finding("relora", "`relora: true` needs `adapter: lora`", "Add it, or remove `relora`.")
    if not schedule.jagged_restart_steps:
        yield Finding(
            "relora",
            "`relora: true` needs `jagged_restart_steps`",
            "Add `jagged_restart_steps: 500`, for example: optimizer steps between two merges.",
        )
    if has_fsdp(fsdp) or deepspeed.deepspeed:
        name = "deepspeed" if deepspeed.deepspeed else "fsdp_config" if fsdp.fsdp_config else "fsdp"
        yield Finding("relora", f"`relora` does not work with `{name}`", f"Remove `relora`, or `{name}`.")
    if schedule.lr_scheduler == "one_cycle":
        yield Finding(
            "lr_scheduler", "`lr_scheduler: one_cycle` has no restarts for `relora`", "Use `cosine`."
        )


def _check_formats(quantization: QuantizationSection) -> Iterator[Finding]:
    """The trained model is rounded to one format.

    After training for rounding (`qat`) it has the format that it was trained for.
    """
    if quantization.qat is not None and quantization.quantization is not None:
        yield Finding("quantization", "`qat` and `quantization` exclude each other", "Keep one of them.")


def _check_start(adapter: AdapterSection, quantization: QuantizationSection) -> Iterator[Finding]:
    """LoftQ decides by itself where LoRA starts, and rounds weights that are whole.

    `peft_init_lora_weights` is another start.  From weights in few bits LoftQ would start at noise.
    """
    if "loftq_config" not in adapter.peft:
        return
    if adapter.peft_init_lora_weights is not None:
        message = "`peft_init_lora_weights` and `peft.loftq_config` exclude each other"
        yield Finding("peft_init_lora_weights", message, "Keep one of them.")
    for name in quantization.ways:
        message = f"`peft.loftq_config` needs whole weights, not `{name}`"
        yield Finding("peft.loftq_config", message, f"Remove it, or `{name}`.")


def _check_tokens(adapter: AdapterSection, embedding: EmbeddingSection) -> Iterator[Finding]:
    """Tokens that `fix_untrained_tokens` resets are among those that are trained.

    A row that is set to the average and then not trained stays the average.
    """
    trained = adapter.peft_trainable_token_indices
    if not trained or embedding.fix_untrained_tokens is None:
        return
    ids = {i for part in trained.values() for i in part} if isinstance(trained, dict) else set(trained)
    fixed = embedding.fix_untrained_tokens
    lacking = sorted({fixed} - ids if isinstance(fixed, int) else set(fixed) - ids)
    if lacking:
        shown = ", ".join(map(str, lacking))
        yield Finding(
            "peft_trainable_token_indices",
            f"`fix_untrained_tokens` resets {shown}, which will not be trained",
            f"Add {shown} to `peft_trainable_token_indices`.",
            "warning",
        )


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_QLORA = _LORA.replace("lora\n", "qlora\n", 1) + "load_in_4bit: true\n"
_ON_QUERIES = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_modules: "
_ON_EXPERTS = _LORA + "lora_target_parameters: [experts.down_proj]\n"

RULES = (
    Rule("SD0301", _check_bits, wrong=_LORA + "load_in_4bit: true", right=_QLORA),
    Rule(
        "SD0302",
        _check_quantizers,
        wrong=_QLORA + "load_in_8bit: true",
        right=_LORA + "load_in_8bit: true",
    ),
    Rule(
        "SD0303",
        _check_idle,
        wrong="peft_use_rslora: true",
        right=_LORA + "peft_use_rslora: true",
    ),
    Rule(
        "SD0304",
        _check_parameters,
        wrong=_ON_EXPERTS + "lora_dropout: 0.05",
        right=_ON_EXPERTS + "lora_dropout: 0",
    ),
    Rule(
        "SD0305",
        _check_layers,
        wrong=_LORA + "peft_layers_pattern: layers",
        right=_LORA + "peft_layers_pattern: layers\npeft_layers_to_transform: [0, 1]",
    ),
    Rule(
        "SD0306",
        _check_patterns,
        wrong=_ON_QUERIES + "'(q|v_proj'",
        right=_ON_QUERIES + "'(q|v)_proj'",
    ),
    Rule(
        "SD0307",
        _check_trained,
        wrong=_LORA + "unfrozen_parameters: [lm_head]",
        right=_LORA + "lora_modules_to_save: [lm_head]",
    ),
    Rule(
        "SD0308",
        _check_lisa,
        wrong="lisa_n_layers: 2",
        right="lisa_n_layers: 2\nlisa_step_interval: 20",
    ),
    Rule(
        "SD0309",
        _check_relora,
        wrong=_LORA + "relora: true",
        right=_LORA + "relora: true\njagged_restart_steps: 500",
    ),
    Rule(
        "SD0310",
        _check_formats,
        wrong="qat:\n  weight_dtype: int4\nquantization:\n  weight_dtype: int4",
        right="qat:\n  weight_dtype: int4",
    ),
    Rule(
        "SD0311",
        _check_start,
        wrong=_LORA + "peft:\n  loftq_config:\n    loftq_bits: 4\npeft_init_lora_weights: pissa",
        right=_LORA + "peft:\n  loftq_config:\n    loftq_bits: 4",
    ),
    Rule(
        "SD0312",
        _check_tokens,
        wrong=_LORA + "fix_untrained_tokens: [7, 8]\npeft_trainable_token_indices: [7]",
        right=_LORA + "fix_untrained_tokens: [7, 8]\npeft_trainable_token_indices: [7, 8]",
    ),
)
