"""What an optimizer takes, needs installed, and does not work with."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from siredon.config.checks.distributed import fsdp_generation
from siredon.config.idle import find_idle_keys
from siredon.config.optimizer_words import ARGUMENTS, OWN_KEYS, find_package
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.distributed import DeepspeedSection, FsdpSection
from siredon.config.sections.optimizer import GrokfastSection, OptimizerSection, ScheduleSection
from siredon.config.sections.precision import PrecisionSection
from siredon.registry import suggest

#: Their updates need whole matrices, and are not made from sharded ones.
_WHOLE = ("dion", "galore_", "apollo_", "q_galore_", "lomo", "adalomo")
_FLAT_SCHEDULES = ("constant", "constant_with_warmup")
_FLASH = ("it is made of kernels of one project that need a GPU", "Use `flash_adamw`, or `adamw_torch_8bit`.")
#: Why an optimizer of the reference is not built, and what to use in its place.
_NOT_BUILT = {
    "adamw_anyprecision": (
        "its package torchdistx is no longer maintained, and works with no PyTorch of today",
        "Use `adamw_bf16_sr`, which rounds bfloat16 weights at random, or `optimi_adamw`, which compensates rounding.",
    ),
    "grokadamw": (
        "it is in no maintained package, and no paper defines it",
        "Use `adamw_torch_fused` with `grokfast: true`.",
    ),
    "sinkgd": ("it is made of kernels of one project that need a GPU", "Use `muon`, or `apollo_adamw`."),
    "flash_adam": _FLASH,
    "flash_sgd": _FLASH,
    "flash_sgdw": _FLASH,
    "flash_lion": _FLASH,
}


def _check_arguments(optimizer: OptimizerSection) -> Iterator[Finding]:
    """`optim_args` names settings that the optimizer takes, and that have no key of their own.

    It is a mapping, or text of the form `name=value,name=value`.
    """
    try:
        names = list(optimizer.settings)
    except ValueError as error:
        yield Finding("optim_args", f"`optim_args`: {error}", "Write `name=value,name=value`, or a mapping.")
        return
    word = optimizer.optimizer
    known = ARGUMENTS.get(word)
    if known is None:
        return
    for name in names:
        if name in known:
            continue
        own = OWN_KEYS.get(name)
        if own:
            yield Finding("optim_args", f"`optim_args`: `{name}` has a key of its own", f"Set `{own}`.")
            continue
        takes = f"It takes: {', '.join(f'`{item}`' for item in known)}." if known else "It takes none."
        yield Finding(
            "optim_args",
            f"`optim_args`: `optimizer: {word}` has no setting `{name}`",
            suggest(name, known) + takes,
        )


def _check_installed(optimizer: OptimizerSection) -> Iterator[Finding]:
    """The package that an optimizer comes from is installed."""
    package = find_package(optimizer.optimizer)
    if package is not None and importlib.util.find_spec(package) is None:
        name = {"optimi": "torch-optimi", "pytorch_optimizer": "pytorch-optimizer"}.get(package, package)
        yield Finding(
            "optimizer",
            f"`optimizer: {optimizer.optimizer}` needs the package {name}, which is not installed",
            "Install it: `pip install 'siredon[optimizers]'`.",
        )


def _check_backward(
    optimizer: OptimizerSection, batch: BatchSection, precision: PrecisionSection, grokfast: GrokfastSection
) -> Iterator[Finding]:
    """An update in the backward pass has the whole gradient of its weight, and of no other.

    So there is nothing to accumulate, the global norm is not known when the first weight moves, and gradients are not
    scaled.
    """
    if not optimizer.updates_in_backward:
        return
    word = optimizer.optimizer
    cause = "optimizer_in_backward: true" if optimizer.optimizer_in_backward else f"optimizer: {word}"
    # SD0327 says it of the layerwise ones.
    accumulates = batch.gradient_accumulation_steps > 1 or (batch.batch_size or 0) > batch.micro_batch_size
    if accumulates and not word.endswith("_layerwise"):
        yield Finding(
            "gradient_accumulation_steps" if batch.gradient_accumulation_steps > 1 else "batch_size",
            f"`{cause}` cannot accumulate gradients",
            "Set `gradient_accumulation_steps: 1`, and raise `micro_batch_size` in its place.",
        )
    if optimizer.max_grad_norm:
        yield Finding(
            "max_grad_norm", f"`{cause}` cannot clip the global norm of gradients", "Set `max_grad_norm: 0`."
        )
    if precision.fp16:
        yield Finding(
            "fp16", f"`{cause}` does not work with scaled gradients", "Set `bf16: true` in its place."
        )
    if grokfast.grokfast:
        yield Finding("grokfast", f"`{cause}` does not work with `grokfast`", "Keep one of them.")
    if word.startswith("schedule_free_"):
        message = f"`optimizer: {word}` does not work with `{cause}`"
        yield Finding("optimizer", message, "Keep one of them.")


def _check_schedule(optimizer: OptimizerSection, schedule: ScheduleSection) -> Iterator[Finding]:
    """A schedule-free optimizer has a learning rate that warms up and stays.

    It averages weights in place of a decay; with both, the last weights hardly move.
    """
    word = optimizer.optimizer
    if word.startswith("schedule_free_") and schedule.lr_scheduler not in _FLAT_SCHEDULES:
        key = "lr_scheduler" if "lr_scheduler" in schedule.model_fields_set else "optimizer"
        yield Finding(
            key,
            f"`optimizer: {word}` averages in place of `lr_scheduler: {schedule.lr_scheduler}`",
            "Set `lr_scheduler: constant_with_warmup`.",
            "warning",
        )


def _check_rounding(
    optimizer: OptimizerSection, precision: PrecisionSection, adapter: AdapterSection
) -> Iterator[Finding]:
    """Stochastic rounding needs trained weights in bfloat16.

    In float32, as adapters are, and as every weight is with `bf16: false`, there is nothing to round.
    """
    if optimizer.optimizer != "adamw_bf16_sr":
        return
    if adapter.adapter:
        why = f"`adapter: {adapter.adapter}` trains weights in float32"
    elif precision.bf16 is False or precision.fp16:
        why = "weights are trained in float32"
    else:
        return
    message = f"`optimizer: adamw_bf16_sr` has nothing to round: {why}"
    yield Finding("optimizer", message, "Use `adamw_torch_fused`.", "warning")


def _check_grokfast(
    grokfast: GrokfastSection, optimizer: OptimizerSection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """Grokfast's settings come with `grokfast: true`, and its averages are of whole gradients.

    Averages of sharded gradients would not be in a checkpoint.  The fused updates of schedule-free optimizers change
    what a gradient means.
    """
    if not grokfast.grokfast:
        yield from find_idle_keys(grokfast, ("grokfast_alpha", "grokfast_lamb"), "`grokfast: true`")
        return
    if deepspeed.deepspeed or fsdp_generation(fsdp):
        message = "`grokfast` does not work with sharded weights"
        yield Finding("grokfast", message, "Use plain data parallelism, or remove it.")
    if optimizer.optimizer.startswith("schedule_free_"):
        message = f"`grokfast` does not work with `optimizer: {optimizer.optimizer}`"
        yield Finding("grokfast", message, "Keep one of them.")


def _check_whole(
    optimizer: OptimizerSection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """Some updates need whole gradients on one GPU, so the weights are not sharded.

    Those of low rank take the singular vectors of a whole matrix; one in the backward pass comes before gradients of
    other GPUs.
    """
    word = optimizer.optimizer
    in_backward = optimizer.updates_in_backward
    if not (word.startswith(_WHOLE) or in_backward) or not (deepspeed.deepspeed or fsdp_generation(fsdp)):
        return
    if word.startswith("q_galore_"):
        return  # SD0328 and SD0329 say what it needs
    key, cause = ("optimizer_in_backward", "true") if optimizer.optimizer_in_backward else ("optimizer", word)
    yield Finding(
        key,
        f"`{key}: {cause}` does not work with sharded weights",
        "Use `muon` or `adamw_torch_8bit`, or do not shard the weights.",
    )


def _check_names(optimizer: OptimizerSection) -> Iterator[Finding]:
    """Each entry of `lr_groups` has a name of its own."""
    seen: set[str] = set()
    for index, group in enumerate(optimizer.lr_groups or ()):
        if group.name in seen or group.name == "main":
            what = "is the group of all other weights" if group.name == "main" else "names two groups"
            yield Finding(f"lr_groups.{index}.name", f"`{group.name}` {what}", "Choose another name.")
        seen.add(group.name)


def _check_built(optimizer: OptimizerSection) -> Iterator[Finding]:
    """Some optimizers of Axolotl cannot be had from a maintained library.

    Each has one near it that works.
    """
    if optimizer.optimizer in _NOT_BUILT:
        why, fix = _NOT_BUILT[optimizer.optimizer]
        yield Finding("optimizer", f"`optimizer: {optimizer.optimizer}`: {why}", fix)


_GROUPS = (
    "lr_groups:\n  - name: queries\n    modules: [q_proj]\n    lr: 1e-5\n"
    "  - name: {}\n    modules: [k_proj]\n    lr: 1e-5"
)

RULES = (
    Rule(
        "SD0620",
        _check_arguments,
        wrong="optimizer: muon\noptim_args: momentun=0.9",
        right="optimizer: muon\noptim_args: momentum=0.9",
    ),
    Rule("SD0621", _check_installed, wrong="optimizer: lion", right="optimizer: adamw_torch", portable=False),
    Rule(
        "SD0622",
        _check_backward,
        wrong="optimizer: lomo\nmax_grad_norm: 1.0",
        right="optimizer: lomo\nmax_grad_norm: 0",
    ),
    Rule(
        "SD0623",
        _check_schedule,
        wrong="optimizer: schedule_free_adamw\nlr_scheduler: cosine",
        right="optimizer: schedule_free_adamw\nlr_scheduler: constant_with_warmup",
    ),
    Rule(
        "SD0624",
        _check_rounding,
        wrong="optimizer: adamw_bf16_sr\nbf16: false",
        right="optimizer: adamw_bf16_sr\nbf16: true",
    ),
    Rule("SD0625", _check_grokfast, wrong="grokfast_alpha: 0.9", right="grokfast: true\ngrokfast_alpha: 0.9"),
    Rule(
        "SD0626",
        _check_whole,
        wrong="optimizer: dion\nfsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true",
        right="optimizer: muon\nfsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true",
    ),
    Rule("SD0627", _check_names, wrong=_GROUPS.format("queries"), right=_GROUPS.format("keys")),
    Rule("SD0628", _check_built, wrong="optimizer: adamw_anyprecision", right="optimizer: adamw_bf16_sr"),
)
