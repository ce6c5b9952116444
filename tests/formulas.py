"""Operations as models write them, in whatever format they are given: the other side of a comparison of ops."""

from __future__ import annotations

import torch
from torch import Tensor


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def plain_rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, rounds_first: bool = True
) -> Tensor:
    wide = _widen(x)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if rounds_first:
        return weight * normed.to(x.dtype)
    return (normed * (offset + _widen(weight))).to(x.dtype)


def plain_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    rounds_first: bool = True,
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return plain_rms_norm(total, weight, eps, offset=offset, rounds_first=rounds_first), total


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def plain_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    turned = cos.shape[-1]
    cos, sin = cos[:, None].to(q.dtype), sin[:, None].to(q.dtype)

    def turn(x: Tensor) -> Tensor:
        x, rest = x[..., :turned], x[..., turned:]
        return torch.cat((x * cos + _rotate_half(x) * sin, rest), dim=-1)

    return turn(q), turn(k)


def plain_glu(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        return torch.nn.functional.silu(gate) * up
    return torch.nn.functional.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up
