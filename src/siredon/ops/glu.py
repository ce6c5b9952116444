"""Gated linear units: the activation of one half times the other half.

Source: Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from siredon.hardware import GPU, has_triton
from siredon.ops.define import define_op

#: What `activation` may be: SwiGLU, GeGLU with the exact GELU, and with its approximation by tanh.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def glu(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Equals `activation(gate.float()) * up.float()`, rounded once.

    It keeps `gate` and `up` for the backward pass; the product, if it is needed there, `glu_backward` gives again.

    Args:
        gate: Shape [..., F]: bf16, fp16 or fp32; halves of one tensor [N, 2F] are not copied.
        up: The same shape and format.
        activation: One of `ACTIVATIONS`: `F.silu`, `F.gelu`, or `F.gelu` with `approximate="tanh"`.

    Returns:
        Shape [..., F], contiguous, in the format of the inputs.

    Raises:
        ValueError: The activation is not known, or the inputs differ in shape or format.
    """
    _check(gate, up, activation)
    product: Tensor = _glu(gate, up, activation)
    return product


def glu_backward(
    gate: Tensor,
    up: Tensor,
    grad: Tensor,
    activation: str,
    *,
    recompute: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of gate and up, and the product once more, in one pass.

    Args:
        gate: As for `glu`.
        up: As for `glu`.
        grad: The gradient of the product, the same shape.
        activation: As for `glu`.
        recompute: Whether the product is wanted; it has the bits that `glu` gave.
        inplace: Whether `gate` and `up` may be written over: their gradients are then these very tensors.

    Returns:
        Gradients of gate and up, and the product or None.

    Raises:
        ValueError: The activation is not known, or the inputs differ in shape or format.
    """
    _check(gate, up, activation)
    if inplace:
        product = _glu_backward_(gate, up, grad, activation, recompute)
        return gate, up, product if recompute else None
    dgate, dup, product = _glu_backward(gate, up, grad, activation, recompute)
    return dgate, dup, product if recompute else None


def _check(gate: Tensor, up: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation {activation!r}: one of {', '.join(ACTIVATIONS)}")
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(f"gate {gate.dtype} {[*gate.shape]} does not fit up {up.dtype} {[*up.shape]}")


def _activate(x: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def _slope(x: Tensor, activation: str) -> Tensor:
    """The derivative of the activation, fp32."""
    if activation == "silu":
        share = torch.sigmoid(x)
        return share * (1 + x * (1 - share))
    if activation == "gelu":
        return 0.5 * torch.erfc(-x * math.sqrt(0.5)) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    factor = 2 * math.sqrt(2 / math.pi)
    bend = factor * (x + 0.044715 * x**3)
    # Not 1 - share: its rounding error would be multiplied by x cubed
    rest = torch.sigmoid(-bend)
    return torch.sigmoid(bend) * (1 + x * rest * factor * (1 + 3 * 0.044715 * x * x))


def _multiply(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return (_activate(gate.float(), activation) * up.float()).to(gate.dtype).contiguous()


def _differentiate(
    gate: Tensor, up: Tensor, grad: Tensor, activation: str, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The plain path: gradients of gate and up, and the product, empty where it is not wanted."""
    product = _multiply(gate, up, activation) if recompute else gate.new_empty(0)
    wide, above = gate.float(), grad.float()
    dup = (above * _activate(wide, activation)).to(up.dtype).contiguous()
    return (above * up.float() * _slope(wide, activation)).to(gate.dtype).contiguous(), dup, product


def _run(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    if gate.device.type == GPU and has_triton():
        from siredon.ops.glu_kernels import launch_forward

        return launch_forward(gate, up, activation)
    return _multiply(gate, up, activation)


def _fake(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return gate.new_empty(gate.shape)


def _run_back(
    gate: Tensor, up: Tensor, grad: Tensor, activation: str, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if gate.device.type == GPU and has_triton():
        from siredon.ops.glu_kernels import launch_backward

        out = gate.new_empty(gate.shape), up.new_empty(up.shape)
        return (*out, launch_backward((gate, up, grad), out, activation, recompute))
    return _differentiate(gate, up, grad, activation, recompute)


def _fake_back(
    gate: Tensor, up: Tensor, grad: Tensor, activation: str, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    product = gate.new_empty(gate.shape if recompute else 0)
    return gate.new_empty(gate.shape), up.new_empty(up.shape), product


def _run_back_(gate: Tensor, up: Tensor, grad: Tensor, activation: str, recompute: bool) -> Tensor:
    if gate.device.type == GPU and has_triton():
        from siredon.ops.glu_kernels import launch_backward

        return launch_backward((gate, up, grad), (gate, up), activation, recompute)
    dgate, dup, product = _differentiate(gate, up, grad, activation, recompute)
    gate.copy_(dgate)
    up.copy_(dup)
    return product


def _fake_back_(gate: Tensor, up: Tensor, grad: Tensor, activation: str, recompute: bool) -> Tensor:
    return gate.new_empty(gate.shape if recompute else 0)


_glu_backward = define_op("siredon::glu_backward", _run_back, _fake_back)
_glu_backward_ = define_op("siredon::glu_backward_", _run_back_, _fake_back_, mutates_args=("gate", "up"))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.activation = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dgate, dup, _ = _glu_backward(*ctx.saved_tensors, grad, ctx.activation, False)
    return dgate, dup, None


_glu = define_op("siredon::glu", _run, _fake, keep=_keep_inputs, backward=_backward)
