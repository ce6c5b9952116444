"""Stacked experts in few bits: one tensor that is held rounded, and is widened by what computes with it.

transformers holds the experts of a layer as one parameter of shape [experts, ., .], which no layer of bitsandbytes
reaches.  `PackedExperts` stands in its place.  It has the shape and number format of the parameter; an operation gets
the widened values, and what autograd keeps of it for the backward pass is the rounded tensor.  So widened experts live
as long as the product that uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

#: Weights that one call of bitsandbytes takes at most: its kernels count in 32 bits.
MOST_AT_ONCE = 2**30
#: Weights that share a scale: in 4 bits as in layers of bitsandbytes; in 8 bits 1.6 % are scales.
BLOCK_OF_4_BITS, BLOCK_OF_8_BITS = 64, 256
#: Blocks that share a scale of scales in double quantization, as bitsandbytes has it.
_NESTED_BLOCK = 256


@dataclass(frozen=True)
class Packing:
    """How weights are rounded.

    Args:
        kind: `nf4`, `fp4`, or `int8` for 256 values that lie dense near zero.
        twice: Whether the scales are rounded, too, to 8 bits (4-bit weights only).

    Source: Dettmers et al., "QLoRA", 2023, https://arxiv.org/abs/2305.14314, for `nf4` and rounding twice; Dettmers et
    al., "8-bit Optimizers via Block-wise Quantization", 2021, https://arxiv.org/abs/2110.02861, for `int8`.
    """

    kind: str
    twice: bool = False

    def pack(self, weights: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Codes, and what bitsandbytes needs to turn them back."""
        from bitsandbytes import functional

        if self.kind == "int8":
            codes, state = functional.quantize_blockwise(weights, blocksize=BLOCK_OF_8_BITS)
            state.shape = weights.shape
        else:
            codes, state = functional.quantize_4bit(
                weights, blocksize=BLOCK_OF_4_BITS, compress_statistics=self.twice, quant_type=self.kind
            )
        return codes, state

    def widen(self, codes: torch.Tensor, state: Any) -> torch.Tensor:
        """The weights that `pack` rounded, in their number format."""
        from bitsandbytes import functional

        if self.kind == "int8":
            widened: torch.Tensor = functional.dequantize_blockwise(codes, state)
        else:
            widened = functional.dequantize_4bit(codes, state)
        return widened.reshape(state.shape)


@dataclass(frozen=True)
class _Part:
    """Some experts of a stack, rounded in one call.

    Args:
        codes: The rounded weights.
        state: What bitsandbytes needs to turn them back; its shape is [experts, rows, columns].
    """

    codes: torch.Tensor
    state: Any

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Every tensor that it holds."""
        state = self.state
        own = (self.codes, state.absmax, state.code)
        return (*own, state.offset, state.state2.absmax, state.state2.code) if state.nested else own

    def pick(self, index: int) -> _Part | None:
        """One expert, shape [rows, columns]; None if it does not begin and end with a block."""
        from bitsandbytes.functional import QuantState

        state = self.state
        size = state.shape[1:].numel()
        if size % state.blocksize:
            return None
        num_blocks = size // state.blocksize
        codes = self.codes.reshape(-1)
        per_expert = codes.numel() // state.shape[0]
        scales = _pick_scales(state, index * num_blocks, num_blocks)
        picked = QuantState(
            scales,
            shape=state.shape[1:],
            code=state.code,
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            dtype=state.dtype,
        )
        chosen = codes[index * per_expert : (index + 1) * per_expert]
        return _Part(chosen.reshape(-1, 1) if state.quant_type else chosen, picked)


def _pick_scales(state: Any, first: int, number: int) -> torch.Tensor:
    """Scales of some blocks in fp32; of those that are rounded, too, whole groups are widened."""
    from bitsandbytes.functional import dequantize_blockwise

    if not state.nested:
        scales: torch.Tensor = state.absmax[first : first + number]
        return scales
    start, end = first // _NESTED_BLOCK, -(-(first + number) // _NESTED_BLOCK)
    rounded = state.absmax[start * _NESTED_BLOCK : end * _NESTED_BLOCK].contiguous()
    widened: torch.Tensor = dequantize_blockwise(
        rounded, absmax=state.state2.absmax[start:end], code=state.state2.code, blocksize=_NESTED_BLOCK
    )
    skipped = first - start * _NESTED_BLOCK
    chosen: torch.Tensor = widened[skipped : skipped + number] + state.offset
    return chosen


class PackedExperts(torch.Tensor):
    """Experts of a layer, held in few bits; every operation computes with the widened values.

    Equals `dequantize(quantize(stack))` of bitsandbytes in every operation.  Picking one expert and turning axes give
    another packed tensor, so that a product widens no more than it uses.  It cannot be written to, and stays on the
    device on which it was packed.
    """

    packing: Packing
    parts: tuple[_Part, ...]
    turns: tuple[tuple[Any, ...], ...]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls: type[PackedExperts],
        packing: Packing,
        parts: tuple[_Part, ...],
        like: torch.Tensor,
        turns: tuple[tuple[Any, ...], ...] = (),
    ) -> PackedExperts:
        """A packed tensor with shape, strides and number format of `like`, which may hold nothing."""
        made: PackedExperts = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=parts[0].codes.device
        )
        made.packing, made.parts, made.turns = packing, parts, turns
        return made

    @classmethod
    def pack(cls, stack: torch.Tensor, packing: Packing) -> PackedExperts:
        """Rounds a stack of experts, shape [experts, ., .], a number of whole experts at a time."""
        stack = stack.detach().contiguous()
        at_once = max(1, MOST_AT_ONCE // stack[0].numel())
        parts = tuple(_Part(*packing.pack(some)) for some in torch.split(stack, at_once))
        return cls(packing, parts, torch.empty_like(stack, device="meta"))

    def widen(self) -> torch.Tensor:
        """The rounded values as a plain tensor, in the number format of the stack."""
        pieces = [self.packing.widen(part.codes, part.state) for part in self.parts]
        widened = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        for turn, *arguments in self.turns:
            widened = turn(widened, *arguments)
        return widened

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, scales included."""
        return sum(tensor.nbytes for part in self.parts for tensor in part.tensors)

    def _pick(self, index: int) -> PackedExperts | None:
        """One expert, packed, if that can be had without widening others."""
        if self.turns or self.dim() != 3:
            return None
        index += self.shape[0] if index < 0 else 0
        if not 0 <= index < self.shape[0]:
            return None
        at_once = self.parts[0].state.shape[0]
        part = self.parts[index // at_once].pick(index % at_once)
        if part is None:
            return None
        like = torch.empty(part.state.shape, dtype=self.dtype, device="meta")
        return PackedExperts(self.packing, (part,), like)

    def _turn(self, turn: Any, arguments: tuple[Any, ...]) -> PackedExperts:
        """The same values with their axes in another order."""
        shell = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device="meta")
        return PackedExperts(
            self.packing, self.parts, turn(shell, *arguments), (*self.turns, (turn, *arguments))
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Shape and format, no values."""
        return f"PackedExperts({tuple(self.shape)}, {self.dtype}, held as {self.packing.kind})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation of PyTorch: on the packed tensor where it can, on the widened values otherwise."""
        handle = _HANDLED.get(operation)
        if handle is not None and isinstance(args[0], PackedExperts):
            result = handle(operation, args, kwargs or {})
            if result is not None:
                return result
        wide_args = tree_map_only(PackedExperts, PackedExperts.widen, args)
        wide_kwargs = tree_map_only(PackedExperts, PackedExperts.widen, kwargs or {})
        return operation(*wide_args, **wide_kwargs)


def _share(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts:
    own = args[0]
    like = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device="meta")
    return PackedExperts(own.packing, own.parts, like, own.turns)


def _pick(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts | None:
    own, dim, index = args
    return own._pick(index) if dim == 0 else None


def _turn(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts:
    return args[0]._turn(operation, args[1:])  # type: ignore[no-any-return]


def _copy(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts | None:
    """A copy in the same format on the same device is packed; another number format is that of plain values."""
    own = args[0]
    device = own.device if kwargs.get("device") is None else torch.device(kwargs["device"])
    # `cpu:0`, which accelerate asks for, is `cpu`.
    if (device.type, device.index or 0) != (own.device.type, own.device.index or 0):
        raise RuntimeError(
            f"packed experts stay on {own.device}; widen them before they are moved to {device}"
        )
    return _share(operation, args, kwargs) if kwargs.get("dtype") in (None, own.dtype) else None


def _write(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts:
    """Takes what it holds already, as ranks do that compare their weights before they begin."""
    own, source = args[0], args[1]
    given = source.widen() if isinstance(source, PackedExperts) else source
    if given.shape != own.shape or not torch.equal(own.widen(), given.to(own.device, own.dtype)):
        raise RuntimeError("packed experts cannot be written to: these values are not those that they hold")
    return own  # type: ignore[no-any-return]


def _keep(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PackedExperts:
    if args[0] is not args[1]:
        raise RuntimeError("packed experts cannot be set to other memory")
    return args[0]  # type: ignore[no-any-return]


_aten = torch.ops.aten
_HANDLED: dict[Any, Callable[[Any, tuple[Any, ...], dict[str, Any]], PackedExperts | None]] = {
    _aten.detach.default: _share,
    _aten.alias.default: _share,
    _aten.clone.default: _share,
    _aten._to_copy.default: _copy,
    _aten.copy_.default: _write,
    _aten.set_.source_Tensor: _keep,
    _aten.select.int: _pick,
    _aten.transpose.int: _turn,
    _aten.t.default: _turn,
    _aten.permute.default: _turn,
}
