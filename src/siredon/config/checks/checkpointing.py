"""What is recomputed, kept, or parked in RAM."""

from __future__ import annotations

import re
from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.distributed import DeepspeedSection, FsdpSection
from siredon.config.sections.freezing import FreezingSection, ReloraSection
from siredon.config.sections.memory import MemorySection, SelectiveCheckpointing
from siredon.config.sections.placement import PlacementSection
from siredon.registry import suggest

_REENTRANT = "gradient_checkpointing_kwargs.use_reentrant"


def _is_reentrant(memory: MemorySection) -> bool:
    asked = memory.gradient_checkpointing_kwargs.get("use_reentrant") is True
    return bool(memory.gradient_checkpointing) and asked


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

    It moves what `gradient_checkpointing` keeps: the inputs of layers.  All activations of a layer are some thirty
    times as many, and would take longer to move than to compute again.
    """
    if memory.activation_offloading and not memory.gradient_checkpointing:
        yield Finding(
            "activation_offloading",
            "`activation_offloading` needs `gradient_checkpointing: true`",
            "Add `gradient_checkpointing: true`, or remove `activation_offloading`.",
        )


def _check_parked_inputs(memory: MemorySection, adapter: AdapterSection) -> Iterator[Finding]:
    """Beside an adapter, all that is kept is parked, not only the inputs of layers.

    What an adapter keeps outside of layers, such as the input of the head, is as large as the input of a layer;
    `activation_offloading: true` parks it too.
    """
    if memory.activation_offloading == "hidden_states" and adapter.adapter is not None:
        yield Finding(
            "activation_offloading",
            "`activation_offloading: hidden_states` leaves on the GPU what is kept outside of layers",
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

    The compiler decides for itself which results it keeps, and cannot compile what looks at every operation.
    """
    if memory.selective_checkpointing and compile.torch_compile:
        yield Finding(
            "selective_checkpointing",
            "`selective_checkpointing` does not work with `torch_compile`, which chooses itself what it keeps",
            "Remove one of them.",
        )


def _check_layers(memory: MemorySection) -> Iterator[Finding]:
    """Which layers are recomputed is said once.

    `gradient_checkpointing` is a fraction of the layers, or `true` beside `gradient_checkpointing_every_n_layers`.
    """
    name = "gradient_checkpointing_every_n_layers"
    if memory.gradient_checkpointing_every_n_layers is None or memory.gradient_checkpointing is True:
        return
    if memory.gradient_checkpointing is False:
        fix = "Add `gradient_checkpointing: true`, or remove the key."
        yield Finding(name, f"`{name}` needs `gradient_checkpointing: true`", fix)
    else:
        message = f"`gradient_checkpointing: {memory.gradient_checkpointing}` and `{name}` exclude each other"
        yield Finding(name, message, "Set `gradient_checkpointing: true`, or remove the key.")


#: What `torch.utils.checkpoint` takes and a file can say.
_SETTINGS = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop")


def _check_settings(memory: MemorySection) -> Iterator[Finding]:
    """`gradient_checkpointing_kwargs` are settings of PyTorch's checkpointing.

    What is kept is not among them: that is `selective_checkpointing`.
    """
    for name in memory.gradient_checkpointing_kwargs:
        if name not in _SETTINGS:
            yield Finding(
                f"gradient_checkpointing_kwargs.{name}",
                f"`{name}` is no setting of checkpointing",
                f"{suggest(name, _SETTINGS)}Settings: {', '.join(f'`{word}`' for word in _SETTINGS)}.",
            )


#: Parts of the names of operations that draw random numbers.
_RANDOM = ("dropout", "bernoulli", "rand", "exponential", "multinomial")


def _check_kept(memory: MemorySection, attention: AttentionSection) -> Iterator[Finding]:
    """What `selective_checkpointing` keeps is one operation, and draws no random numbers.

    Eager attention is a chain of products and a softmax, none of which is `attention`.  A kept result is not
    computed again, so it draws no numbers then, and dropout after it would draw others than before.
    """
    kept = memory.kept_results
    if kept is None:
        return
    if "attention" in kept.save and attention.attn_implementation == "eager":
        yield Finding(
            "selective_checkpointing",
            "`selective_checkpointing` finds no operation to keep in `eager` attention",
            "Write `attn_implementation: sdpa`, or name other operations in `selective_checkpointing.save`.",
        )
    for name in kept.save:
        if any(word in name for word in _RANDOM):
            message = f"`{name}` draws random numbers: what comes after it would not be computed as before"
            yield Finding("selective_checkpointing.save", message, f"Remove `{name}` from `save`.")


def _check_layer_parking(
    memory: MemorySection,
    adapter: AdapterSection,
    freezing: FreezingSection,
    compile: CompileSection,
    relora: ReloraSection,
) -> Iterator[Finding]:
    """`layer_offloading` is for frozen weights that stay so, in layers that are not compiled.

    A weight that changes does so on the GPU; what is in RAM would be the old one.  Compiled code keeps the
    place of a weight, which is another each time that it is fetched.
    """
    if not memory.layer_offloading:
        return
    if adapter.adapter is None and not freezing.unfrozen_parameters:
        yield Finding(
            "layer_offloading",
            "`layer_offloading` moves frozen weights, and here all are trained",
            "Add `adapter: lora`, or remove `layer_offloading`.",
        )
    if compile.torch_compile:
        message = "`layer_offloading` does not work with `torch_compile`"
        yield Finding("layer_offloading", message, "Remove one of them.")
    if relora.relora:
        message = "`relora` merges the adapter into weights that `layer_offloading` holds in RAM"
        yield Finding("layer_offloading", message, "Remove one of them.")


def _check_compiled_parking(memory: MemorySection, compile: CompileSection) -> Iterator[Finding]:
    """A compiled layer is recomputed by the compiler.

    What steps in when a layer is called, to park its input, would not be compiled with it.
    """
    if compile.torch_compile and memory.activation_offloading == "hidden_states":
        yield Finding(
            "activation_offloading",
            "`activation_offloading: hidden_states` does not work with `torch_compile`",
            "Write `activation_offloading: true`, or remove one of them.",
        )


def _check_plan(memory: MemorySection) -> Iterator[Finding]:
    """`gradient_checkpointing: auto` chooses itself what is kept, and where.

    `selective_checkpointing` and `activation_offloading` say it too.
    """
    for name, is_on in (
        ("selective_checkpointing", memory.selective_checkpointing),
        ("activation_offloading", memory.activation_offloading),
    ):
        if memory.gradient_checkpointing == "auto" and is_on:
            yield Finding(
                name,
                f"`{name}` and `gradient_checkpointing: auto` exclude each other",
                "Write `gradient_checkpointing: true`, or remove the key.",
            )


def _check_plan_kind(memory: MemorySection) -> Iterator[Finding]:
    """`gradient_checkpointing: auto` is not reentrant.

    A reentrant layer gives frozen layers before it no gradients unless its input has one, and a plan recomputes some
    layers only.
    """
    if memory.gradient_checkpointing == "auto" and _is_reentrant(memory):
        yield Finding(
            _REENTRANT,
            "`use_reentrant: true` and `gradient_checkpointing: auto` exclude each other",
            "Remove `use_reentrant`.",
        )


def _check_plan_place(memory: MemorySection, placement: PlacementSection) -> Iterator[Finding]:
    """`gradient_checkpointing: auto` plans for one GPU per process.

    Weights that are spread over several leave each of them other room, and a layer's activations lie where it does.
    """
    if memory.gradient_checkpointing == "auto" and placement.spread_by:
        yield Finding(
            "gradient_checkpointing",
            f"`gradient_checkpointing: auto` does not work with `{placement.spread_by}`, which spreads the model",
            "Write `gradient_checkpointing: true`, or a fraction.",
        )


def _check_plan_sharding(
    memory: MemorySection, fsdp: FsdpSection, deepspeed: DeepspeedSection
) -> Iterator[Finding]:
    """`gradient_checkpointing: auto` plans for weights that are whole on each GPU.

    FSDP and DeepSpeed gather them layer by layer, which the plan does not count, and can recompute by themselves.
    """
    if memory.gradient_checkpointing != "auto":
        return
    for name, is_on in (
        ("deepspeed", deepspeed.deepspeed),
        ("fsdp_config", fsdp.fsdp_config),
        ("fsdp", fsdp.fsdp),
    ):
        if is_on:
            yield Finding(
                "gradient_checkpointing",
                f"`gradient_checkpointing: auto` does not work with `{name}`",
                "Write `gradient_checkpointing: true`, or a fraction.",
            )
            return


_ON = "gradient_checkpointing: true\n"
_AUTO = "gradient_checkpointing: auto\n"
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
    Rule(
        "SD0680",
        _check_layers,
        wrong="gradient_checkpointing: 0.5\ngradient_checkpointing_every_n_layers: 2",
        right="gradient_checkpointing: true\ngradient_checkpointing_every_n_layers: 2",
    ),
    Rule(
        "SD0681",
        _check_settings,
        wrong=_ON + _KWARGS.replace("use_", "is_") + "true",
        right=_ON + _KWARGS + "true",
    ),
    Rule(
        "SD0682",
        _check_kept,
        wrong=_ON + "selective_checkpointing: true\nattn_implementation: eager",
        right=_ON + "selective_checkpointing: true\nattn_implementation: sdpa",
    ),
    Rule(
        "SD0683",
        _check_layer_parking,
        wrong="layer_offloading: true",
        right=_LORA + "layer_offloading: true",
    ),
    Rule(
        "SD0684",
        _check_compiled_parking,
        wrong=_ON + "activation_offloading: hidden_states\ntorch_compile: true",
        right=_ON + "activation_offloading: true\ntorch_compile: true",
    ),
    Rule(
        "SD0570",
        _check_plan,
        wrong=_AUTO + "selective_checkpointing: true",
        right=_ON + "selective_checkpointing: true",
    ),
    Rule(
        "SD0571",
        _check_plan_kind,
        wrong=_AUTO + _KWARGS + "true",
        right=_AUTO + _KWARGS + "false",
    ),
    Rule(
        "SD0572",
        _check_plan_place,
        wrong=_AUTO + "device_map: auto",
        right=_ON + "device_map: auto",
    ),
    Rule(
        "SD0573",
        _check_plan_sharding,
        wrong=_AUTO + "deepspeed: deepspeed_configs/zero2.json",
        right=_ON + "deepspeed: deepspeed_configs/zero2.json",
    ),
)
