"""Linear layers and gated MLPs of a model, with the adapters of PEFT, by `siredon.ops.lora_linear`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from siredon.model.blocks import Blocks, MlpBlock
from siredon.model.kernel import Changes, Kernel, Outcome, Situation
from siredon.ops.dora import dora_glu_mlp, dora_linears
from siredon.ops.glu import glu
from siredon.ops.lora_glu_mlp import lora_glu_mlp
from siredon.ops.lora_linear import EightBits, Lora, Weight, find_format, lora_linears


class Linears(Protocol):
    """What `build_linears` returns."""

    def __call__(self, x: Tensor, *, skip_output: bool = False) -> tuple[Tensor, ...]:
        """[..., I] -> [..., O] of each layer; see `lora_linears`."""


class GluMlp(Protocol):
    """What `build_glu_mlp` returns."""

    def __call__(self, x: Tensor, *, skip_output: bool = False) -> Tensor:
        """[..., I] -> [..., O]; see `lora_glu_mlp`."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What sets an adapter apart from plain LoRA; fixed when it is attached.

    Args:
        dropout: The module on its input.
        has_bias: Whether its `b` has a bias.
        length: The module of DoRA that has the lengths of the rows.
    """

    dropout: nn.Dropout | None
    has_bias: bool
    length: Any

    @property
    def parts(self) -> tuple[Any, ...]:
        """Its modules."""
        return tuple(part for part in (self.dropout, self.length) if part is not None)

    @property
    def rate(self) -> float:
        """Of dropout, as it is now: none where the model answers and is not trained."""
        dropout = self.dropout
        return dropout.p if dropout is not None and dropout.training else 0.0


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that the ops can compute.

    Args:
        module: As the model has it: PEFT's, or a plain one.
        base: The frozen layer within, or itself.
        adapter: The name of the only active adapter; None where it has none.
        bits: How many bitsandbytes rounded the weight to, 4 or 8; None for a whole one.
        variant: None for plain LoRA.
    """

    module: Any
    base: Any
    adapter: str | None
    bits: int | None
    variant: Variant | None = None

    @property
    def is_bare(self) -> bool:
        """Whether the layer is computed without an adapter: it has none, or that is switched off at the moment."""
        return self.adapter is None or self.module.disable_adapters

    def find_obstacle(self) -> str | None:
        """Why the ops cannot compute the layer as it is now; None where they can.  Cheap: asked at each call."""
        for part in self._parts():
            own = vars(part)
            replaced = "forward" in own and not isinstance(own["forward"], _Single)
            if own["_forward_hooks"] or own["_forward_pre_hooks"] or replaced:
                return "a hook on it"
            if own["_backward_hooks"] or own["_backward_pre_hooks"]:
                return "a hook on its gradient"
        obstacle = self._find_obstacle_in_base()
        if obstacle is None and self.adapter is not None:
            obstacle = self._find_obstacle_in_adapter(self.adapter)
        return obstacle

    def _parts(self) -> tuple[Any, ...]:
        if self.adapter is None:
            return (self.base,)
        own = () if self.variant is None else self.variant.parts
        return (self.base, self.module, *self._find_adapter(self.adapter), *own)

    def _find_adapter(self, name: str) -> tuple[Any, Any]:
        # Attributes of modules are slow, and this is asked for each layer of each pass
        parts = self.module._modules
        return parts["lora_A"]._modules[name], parts["lora_B"]._modules[name]

    def _find_obstacle_in_base(self) -> str | None:
        weight = self.base.weight
        if self.bits is not None:
            return None if self._find_state() is not None else "its weight is not yet quantized"
        if type(weight) not in (nn.Parameter, Tensor):
            return f"a weight of type {type(weight).__name__}"
        return None if weight.is_floating_point() else f"a weight in {weight.dtype}"

    def _find_obstacle_in_adapter(self, adapter: str) -> str | None:
        module = self.module
        if module.merged_adapters:
            return "its adapter is merged"
        active = module.active_adapter
        if active not in (adapter, [adapter]):
            return f"its active adapters are {active}"
        return None

    def _find_state(self) -> Any:
        if self.bits == 8:
            return _find_8bit_state(self.base)
        # Sharding makes the weight anew, without its state: the layer keeps it, too.
        return vars(self.base.weight).get("quant_state") or self.base.quant_state

    def read(self) -> tuple[Weight, Lora | None]:
        """Its parameters as they are now: a resumed run and sharding replace them."""
        base = self.base
        if self.bits == 8:
            weight = _read_8bit(base)
        else:
            weight = Weight(base.weight, base.bias, self._find_state() if self.bits else None)
        if self.adapter is None or self.is_bare:
            return weight, None
        a, b = self._find_adapter(self.adapter)
        scale, variant = self.module.scaling[self.adapter], self.variant
        if variant is None:
            return weight, Lora(a.weight, b.weight, scale)
        return weight, Lora(a.weight, b.weight, scale, variant.rate, b.bias if variant.has_bias else None)

    def read_magnitude(self) -> Tensor | None:
        """The lengths of DoRA, [O], as they are now; None where the adapter has none."""
        if self.variant is None or self.variant.length is None or self.is_bare:
            return None
        magnitude: Tensor = self.variant.length.weight
        return magnitude

    def fits(self, dtype: torch.dtype, given: torch.dtype) -> bool:
        """Whether the layer itself would compute in this format, of an input that is given in another, or in it."""
        if self.bits is None:
            return True
        if self.bits == 8:
            return dtype is given  # autocast leaves products in 8 bits alone
        return not self.base.compute_type_is_set or self.base.compute_dtype is dtype


def _find_8bit_state(base: Any) -> Any:
    """The scales of a weight in 8 bits: the first product moves them from the weight to the state of the layer."""
    state = base.state
    return base.weight.SCB if state.SCB is None else state.SCB


def _read_8bit(base: Any) -> Weight:
    """As its own `forward` would: scales moved to where products look for them, and the way of the product chosen."""
    state = base.state
    if base.weight.CB is not None:
        base.init_8bit_state()
    state.is_training = base.training
    return Weight(state.CB, base.bias, EightBits(state))


def read_linear(module: nn.Module) -> Linear | str:
    """What the ops take of a layer, or why they cannot compute it.

    Args:
        module: A `torch.nn.Linear`, or one that PEFT put LoRA beside; its weight as it is, or in 4 or 8 bits by
            bitsandbytes.
    """
    kind = type(module)
    bits = _ADAPTED.get((kind.__module__, kind.__name__))
    if bits is not None:
        return _read_adapted(module, bits or None)
    bits = _count_bits(module)
    if kind is not nn.Linear and bits is None:
        return f"a layer of type {kind.__module__}.{kind.__name__}"
    linear = Linear(module, module, None, bits)
    return linear.find_obstacle() or linear


#: Layers of PEFT with LoRA -> the bits of the weights that they are beside; 0 for whole ones.
_ADAPTED = {
    ("peft.tuners.lora.layer", "Linear"): 0,
    ("peft.tuners.lora.bnb", "Linear4bit"): 4,
    ("peft.tuners.lora.bnb", "Linear8bitLt"): 8,
}


def _count_bits(module: Any) -> int | None:
    """How many bitsandbytes rounded the frozen weight of a layer to; None for any other layer."""
    # Only where it is loaded: a layer of a package that is not cannot be among ours.
    package = sys.modules.get("bitsandbytes.nn")
    if package is None:
        return None
    if type(module) is package.Linear4bit:
        return 4
    lean = sys.modules.get("siredon.model.products_8bit")
    is_8bit = type(module) is package.Linear8bitLt or (lean is not None and type(module) is lean.LeanLinear)
    return 8 if is_8bit and not module.state.has_fp16_weights else None


def _read_adapted(module: Any, bits: int | None) -> Linear | str:
    base = module.base_layer
    if (type(base) is not nn.Linear) if bits is None else (_count_bits(base) != bits):
        return f"LoRA beside a layer of type {type(base).__module__}.{type(base).__name__}"
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(module.active_adapters) != 1 or len(names) != 1:
        return f"its active adapters are {module.active_adapters}, of which it has {names}"
    variant = _read_variant(module, names[0])
    if isinstance(variant, str):
        return variant
    linear = Linear(module, base, names[0], bits, variant)
    return linear.find_obstacle() or linear


def _read_variant(module: Any, adapter: str) -> Variant | str | None:
    """What sets an adapter apart from plain LoRA, None for nothing; or why the ops do not know it."""
    kind, length = module.lora_variant.get(adapter), None
    if kind is not None and type(kind).__name__ != "DoraLinearVariant":
        return f"an adapter of another kind: {type(kind).__name__}"
    if kind is not None:
        length = module.lora_magnitude_vector[adapter]
    if module.fan_in_fan_out:
        return "a weight that is transposed"
    for part in (module.lora_A[adapter], module.lora_B[adapter]):
        if type(part) is not nn.Linear:
            return f"an adapter of type {type(part).__name__}"
    dropout: nn.Module | None = module.lora_dropout[adapter]
    if type(dropout) is nn.Identity:
        dropout = None
    elif type(dropout) is not nn.Dropout:
        return f"an unknown dropout on the adapter's input: {dropout}"
    has_bias = module.lora_B[adapter].bias is not None
    if length is not None and has_bias:
        return "DoRA with a bias"
    if dropout is None and length is None and not has_bias:
        return None
    return Variant(dropout, has_bias, length)


def build_linears(modules: Sequence[nn.Module]) -> Linears | str:
    """Layers of one input as one function, or why not.

    It reads their parameters at each call, and calls the modules themselves where the ops cannot stand for them, as
    while their adapter is merged.

    Args:
        modules: Such as q, k and v; one alone is welcome.
    """
    linears = _read_all(modules)
    if isinstance(linears, str):
        return linears

    has_lengths = any(linear.read_magnitude() is not None for linear in linears)

    def multiply(x: Tensor, *, skip_output: bool = False) -> tuple[Tensor, ...]:
        if not _can_stand(linears, x):
            return tuple(_call(linear.module, x) for linear in linears)
        weights, loras = zip(*(linear.read() for linear in linears), strict=True)
        if has_lengths:
            return dora_linears(x, weights, loras, [linear.read_magnitude() for linear in linears])
        return lora_linears(x, weights, loras, skip_output=skip_output)

    return multiply


def build_glu_mlp(gate: nn.Module, up: nn.Module, down: nn.Module, activation: str) -> GluMlp | str:
    """A gated MLP as one function, or why not; see `build_linears`.

    Args:
        gate: Its output goes through the activation.
        up: Its output is multiplied by that.
        down: Takes the product.
        activation: The name that `siredon.ops.glu` knows.
    """
    linears = _read_all((gate, up, down))
    if isinstance(linears, str):
        return linears

    has_lengths = any(linear.read_magnitude() is not None for linear in linears)

    def run(x: Tensor, *, skip_output: bool = False) -> Tensor:
        if not _can_stand(linears, x):
            output: Tensor = down(glu(gate(x), up(x), activation))
            return output
        weights, loras = zip(*(linear.read() for linear in linears), strict=True)
        if has_lengths:
            magnitudes = [linear.read_magnitude() for linear in linears]
            return dora_glu_mlp(x, weights, loras, magnitudes, activation)
        return lora_glu_mlp(x, weights, loras, activation, skip_output=skip_output)

    return run


def _read_all(modules: Sequence[nn.Module]) -> list[Linear] | str:
    read = [read_linear(module) for module in modules]
    reasons = [one for one in read if isinstance(one, str)]
    return reasons[0] if reasons else [one for one in read if isinstance(one, Linear)]


def _call(module: Any, x: Tensor) -> Tensor:
    """The module's own output, also where `_Single` stands for it."""
    own = vars(module).get("forward")
    output: Tensor = type(module).forward(module, x) if isinstance(own, _Single) else module(x)
    return output


def _can_stand(linears: Sequence[Linear], x: Tensor) -> bool:
    dtype = find_format(x)
    return all(linear.fits(dtype, x.dtype) and linear.find_obstacle() is None for linear in linears)


def install(blocks: Blocks, situation: Situation, changes: Changes) -> Outcome:
    """Lays them over attention and feed-forward layers of known kinds, and over any other layer with an adapter."""
    outcome = Outcome()
    done: set[int] = set()
    for attention in blocks.attentions:
        module = attention.module
        _place(
            attention,
            "project",
            (module.q_proj, module.k_proj, module.v_proj),
            "qkv",
            (situation, outcome, done),
        )
        _place(attention, "finish", (module.o_proj,), "o", (situation, outcome, done))
    for mlp in blocks.mlps:
        _place_mlp(mlp, (situation, outcome, done))
    for module in blocks.base.modules():
        if _is_adapted(module) and id(module) not in done:
            found = build_linears([module])
            if isinstance(found, str):
                outcome.leave_out(found)
            else:
                changes.set_forward(module, _Single(found))
                outcome.num_places += 1
    outcome.what = f"{outcome.num_places} layers"
    if not outcome.num_places and not outcome.reasons:
        outcome.leave_out("no layer of a known kind has LoRA or is trained")
    return outcome


#: The situation, what became of the kernel so far, and the layers that are settled, by identity.
_Progress = tuple[Situation, Outcome, set[int]]


def _is_adapted(module: Any) -> bool:
    return "lora_A" in module._modules and "base_layer" in module._modules


def _are_trained(modules: Sequence[Any]) -> bool:
    return all(type(module) is nn.Linear and module.weight.requires_grad for module in modules)


def _place(block: Any, piece: str, modules: tuple[Any, ...], part: str, progress: _Progress) -> None:
    situation, outcome, done = progress
    adapted = [module for module in modules if _is_adapted(module)]
    if part in situation.plain_lora or not (adapted or (len(modules) > 1 and _are_trained(modules))):
        done.update(map(id, adapted))
        return
    found = build_linears(modules)
    if isinstance(found, str):
        return  # each alone, later
    done.update(map(id, adapted))
    outcome.num_places += len(adapted or modules)
    setattr(block, piece, _Single(found) if piece == "finish" else found)


def _place_mlp(mlp: MlpBlock, progress: _Progress) -> None:
    situation, outcome, done = progress
    module = mlp.module
    modules = (module.gate_proj, module.up_proj, module.down_proj)
    adapted = [module for module in modules if _is_adapted(module)]
    if "mlp" in situation.plain_lora or not (adapted or _are_trained(modules)):
        done.update(map(id, adapted))
        return
    found = build_glu_mlp(*modules, mlp.activation) if mlp.glu is not None else "gated layers are not fused"
    if not isinstance(found, str):
        mlp.run = found
        done.update(map(id, adapted))
        outcome.num_places += len(adapted or modules)


class _Single:
    """One layer: what `build_linears` gives, without its tuple."""

    def __init__(self, run: Linears) -> None:
        self.run = run

    def __call__(self, x: Tensor, *, skip_output: bool = False) -> Tensor:
        return self.run(x, skip_output=skip_output)[0]


KERNEL = Kernel(
    title="Linear layers with LoRA, or trained ones that share an input",
    gain="28 % of the speed of an 8B LoRA, and 16 GiB (H100)",
    install=install,
)
