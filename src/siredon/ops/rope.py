"""Rotary position embedding of queries and keys together.

Source: Su et al., "RoFormer", 2021, https://arxiv.org/abs/2104.09864.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.define import define_op


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, turned by the angle of their position.

    With `turned = torch.cat((-x[..., R // 2 : R], x[..., : R // 2]), -1)`, the first R elements of each head become
    `x[..., :R] * cos[:, None] + turned * sin[:, None]`, in fp32 and rounded once; the others stay as they are.

    Args:
        q: Shape [B, Hq, L, D]; with its last dim contiguous it is not copied.
        k: Shape [B, Hk, L, D].
        cos: Shape [B or 1, L, R] in any format, R even and at most D; its two halves are equal.
        sin: The same of the sine.  Neither has a gradient.

    Returns:
        The same shapes and formats; in memory each is [B, L, H, D].

    Raises:
        ValueError: Sizes do not fit together.
    """
    batch, _, length, dim = q.shape
    if cos.shape != sin.shape or cos.shape[0] not in (1, batch) or cos.shape[1] != length:
        raise ValueError(f"cos {[*cos.shape]} and sin {[*sin.shape]} do not fit queries {[*q.shape]}")
    if cos.shape[2] > dim or cos.shape[2] % 2:
        raise ValueError(f"cannot turn {cos.shape[2]} of {dim} elements")
    if (k.shape[0], *k.shape[2:]) != (batch, length, dim):
        raise ValueError(f"keys {[*k.shape]} do not fit queries {[*q.shape]}")
    turned: tuple[Tensor, Tensor] = _rope(q, k, cos, sin, False)
    return turned


def _empty_turned(x: Tensor) -> Tensor:
    batch, heads, length, dim = x.shape
    return x.new_empty((batch, length, heads, dim)).transpose(1, 2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1] // 2
    cos, sin = cos[:, None, :, :half].float(), sin[:, None, :, :half].float()
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    out = _empty_turned(x)
    out[..., :half] = first * cos - second * sin
    out[..., half : 2 * half] = second * cos + first * sin
    out[..., 2 * half :] = x[..., 2 * half :]
    return out


def _run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """Turns forward, or back."""
    if q.device.type == GPU and has_triton():
        from siredon.ops.rope_kernels import launch_turn

        return launch_turn(q, k, cos, sin, back)
    sin = -sin if back else sin
    return _turn(q, cos, sin), _turn(k, cos, sin)


def _fake(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    return _empty_turned(q), _empty_turned(k)


def _keep_angles(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[2], inputs[3])
    ctx.back = inputs[4]


def _backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
    return (*_rope(dq, dk, *ctx.saved_tensors, not ctx.back), None, None, None)


_rope = define_op("siredon::rope", _run, _fake, keep=_keep_angles, backward=_backward)
