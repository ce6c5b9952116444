"""What is recomputed, kept, or parked in RAM."""

from __future__ import annotations

import re
from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.freezing import FreezingSection
from siredon.config.sections.memory import MemorySection, SelectiveCheckpointing

_REENTRANT = "gradient_checkpointing_kwargs.use_reentrant"


def _is_reentrant(memory: MemorySection) -> bool:
    return memory.gradient_checkpointing and memory.gradient_checkpointing_kwargs.get("use_reentrant") is True


def _check_frozen(memory: MemorySection, freezing: FreezingSection) -> Iterator[Finding]:
    """Where most weights are frozen, recomputing is not reentrant.

    A reentrant block passes gradients on only if one of its inputs has some.  Behind frozen weights none has,
    and the block would not learn.
    """
    if freezing.unfrozen_parameters and _is_reentrant(memory):
        yield Finding(
            _REENTRANT,
            "`use_reentrant: true` gives the weights of `unfrozen_parameters` no gradients behind frozen ones",
            "Set `use_reentrant: false`.",
        )


def _check_parked(memory: MemorySection) -> Iterator[Finding]:
    """`activation_offloading` comes with `gradient_checkpointing`.

    It moves what `gradient_checkpointing` keeps.
    """
    if memory.activation_offloading and not memory.gradient_checkpointing:
        yield Finding(
            "activation_offloading",
            "`activation_offloading` needs `gradient_checkpointing: true`",
            "Add `gradient_checkpointing: true`, or remove `activation_offloading`.",
        )


def _check_parked_inputs(memory: MemorySection, adapter: AdapterSection) -> Iterator[Finding]:
    """Beside an adapter, all activations are parked, not only the inputs of the blocks.

    An adapter keeps few activations, so `activation_offloading: true` can park them all and spare the
    recomputing that `hidden_states` needs.
    """
    if memory.activation_offloading == "hidden_states" and adapter.adapter is not None:
        yield Finding(
            "activation_offloading",
            "`activation_offloading: hidden_states` recomputes every block, which is seldom worth it beside an "
            "adapter",
            "Write `activation_offloading: true`.",
            "warning",
        )


def _check_selective(memory: MemorySection) -> Iterator[Finding]:
    """`selective_checkpointing` comes with recomputing that it can steer.

    That is `gradient_checkpointing` that is not reentrant.  Of the kinds of
    `activation_offloading` it goes with `hidden_states`: the others move every result, kept or not.
    """
    if not memory.selective_checkpointing:
        return
    if not memory.gradient_checkpointing:
        yield Finding(
            "selective_checkpointing",
            "`selective_checkpointing` needs `gradient_checkpointing: true`",
            "Add `gradient_checkpointing: true`, or remove `selective_checkpointing`.",
        )
    if _is_reentrant(memory):
        yield Finding(
            _REENTRANT,
            "`selective_checkpointing` cannot steer reentrant recomputing",
            "Set `use_reentrant: false`.",
        )
    if memory.activation_offloading and memory.activation_offloading != "hidden_states":
        yield Finding(
            "activation_offloading",
            "`activation_offloading` moves every result, also those that `selective_checkpointing` keeps",
            "Write `activation_offloading: hidden_states`, or remove one of them.",
        )


#: Names of PyTorch's operations that multiply matrices, without `aten` and overload.
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "matmul", "linear"}


def _check_products(memory: MemorySection, adapter: AdapterSection) -> Iterator[Finding]:
    """Beside an adapter, matrix products are recomputed.

    An adapter adds products to each layer that it adapts, and all of them would be kept: more memory than
    recomputing the rest spares.
    """
    block = memory.selective_checkpointing
    if adapter.adapter is None or not isinstance(block, SelectiveCheckpointing):
        return
    for name in block.save:
        if _PRODUCTS.intersection(re.split(r"[.:]+", name)):
            yield Finding(
                "selective_checkpointing.save",
                f"`{name}` would keep the results of every product of the adapter too",
                f"Remove `{name}` from `save`; `attention` is worth keeping.",
            )


def _check_compiled(memory: MemorySection, compile: CompileSection) -> Iterator[Finding]:
    """`selective_checkpointing` and `torch_compile` do not both choose what is kept.

    The compiler decides for itself which results it keeps, and may pass over the file.
    """
    if memory.selective_checkpointing and compile.torch_compile:
        yield Finding(
            "selective_checkpointing",
            "`torch_compile` may keep other results than those of `selective_checkpointing`",
            "Remove one of them, or compare the memory of both.",
            "warning",
        )


_ON = "gradient_checkpointing: true\n"
_KWARGS = "gradient_checkpointing_kwargs:\n  use_reentrant: "
_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_UNFROZEN = "unfrozen_parameters:\n  - layers.31.\n"

RULES = (
    Rule(
        "SD0243",
        _check_frozen,
        wrong=_UNFROZEN + _ON + _KWARGS + "true",
        right=_UNFROZEN + _ON + _KWARGS + "false",
    ),
    Rule(
        "SD0244",
        _check_parked,
        wrong="activation_offloading: true",
        right=_ON + "activation_offloading: true",
    ),
    Rule(
        "SD0245",
        _check_parked_inputs,
        wrong=_LORA + _ON + "activation_offloading: hidden_states",
        right=_LORA + _ON + "activation_offloading: true",
    ),
    Rule(
        "SD0246",
        _check_selective,
        wrong="selective_checkpointing: true",
        right=_ON + "selective_checkpointing: true",
    ),
    Rule(
        "SD0247",
        _check_products,
        wrong=_LORA + _ON + "selective_checkpointing:\n  save:\n    - aten.mm",
        right=_LORA + _ON + "selective_checkpointing:\n  save:\n    - attention",
    ),
    Rule(
        "SD0248",
        _check_compiled,
        wrong=_ON + "selective_checkpointing: true\ntorch_compile: true",
        right=_ON + "selective_checkpointing: true",
    ),
)
