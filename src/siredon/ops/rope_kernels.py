"""The rotation in Triton: a program has all heads of one token, and reads its angles once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Pairs of elements that a program has in hand at once.
_MOST_PAIRS = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _turn_heads(  # noqa: PLR0913 - a kernel takes pointers and numbers
    x: tl.tensor,
    out: tl.tensor,
    num_heads: tl.tensor,
    stride: tl.tensor,
    dim: tl.tensor,
    half: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    rest: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Heads of one token, `stride` apart, into heads that lie one behind the other."""
    pair = tl.arange(0, block)
    for start in range(0, num_heads, heads):
        head = start + tl.arange(0, heads)
        exists = (head < num_heads)[:, None]
        inside = exists & (pair < half)[None, :]
        source = x + head.to(tl.int64)[:, None] * stride + pair[None, :]
        target = out + head[:, None] * dim + pair[None, :]
        first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
        tl.store(target, (first * cos - second * sin).to(out.dtype.element_ty), mask=inside)
        tl.store(target + half, (second * cos + first * sin).to(out.dtype.element_ty), mask=inside)
        if rest > 0:
            other = tl.arange(0, rest)
            kept = exists & (2 * half + other < dim)[None, :]
            place = 2 * half + other[None, :]
            values = tl.load(x + head.to(tl.int64)[:, None] * stride + place, mask=kept)
            tl.store(out + head[:, None] * dim + place, values, mask=kept)


@triton.jit  # type: ignore[untyped-decorator]
def _turn_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    q: tl.tensor,
    k: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    q_out: tl.tensor,
    k_out: tl.tensor,
    length: tl.tensor,
    dim: tl.tensor,
    half: tl.tensor,
    q_heads: tl.tensor,
    k_heads: tl.tensor,
    q_batch: tl.tensor,
    q_head: tl.tensor,
    q_token: tl.tensor,
    k_batch: tl.tensor,
    k_head: tl.tensor,
    k_token: tl.tensor,
    cos_batch: tl.tensor,
    cos_token: tl.tensor,
    sin_batch: tl.tensor,
    sin_token: tl.tensor,
    sign: tl.tensor,
    rest: tl.constexpr,
    heads: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """All heads of a token; `sign` is -1 to turn back."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // length
    token = row % length
    pair = tl.arange(0, block)
    place = batch * cos_batch + token * cos_token + pair
    c = tl.load(cos + place, mask=pair < half, other=0.0).to(tl.float32)[None, :]
    place = batch * sin_batch + token * sin_token + pair
    s = tl.load(sin + place, mask=pair < half, other=0.0).to(tl.float32)[None, :] * sign
    source = q + batch * q_batch + token * q_token
    _turn_heads(source, q_out + row * q_heads * dim, q_heads, q_head, dim, half, c, s, rest, heads, block)
    source = k + batch * k_batch + token * k_token
    _turn_heads(source, k_out + row * k_heads * dim, k_heads, k_head, dim, half, c, s, rest, heads, block)


def _with_dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def launch_turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    """Queries [B, Hq, L, D] and keys [B, Hk, L, D], turned; in memory [B, L, H, D]."""
    q, k, cos, sin = _with_dense_rows(q), _with_dense_rows(k), _with_dense_rows(cos), _with_dense_rows(sin)
    batch, q_heads, length, dim = q.shape
    k_heads, half = k.shape[1], cos.shape[2] // 2
    q_out = torch.empty((batch, length, q_heads, dim), dtype=q.dtype, device=q.device)
    k_out = torch.empty((batch, length, k_heads, dim), dtype=k.dtype, device=k.device)
    if batch * length:
        block = max(16, triton.next_power_of_2(half))
        heads = max(1, min(triton.next_power_of_2(max(q_heads, k_heads)), _MOST_PAIRS // block))
        several = cos.shape[0] > 1
        with torch.accelerator.device_index(q.device.index):
            _turn_kernel[(batch * length,)](
                q,
                k,
                cos,
                sin,
                q_out,
                k_out,
                length,
                dim,
                half,
                q_heads,
                k_heads,
                *q.stride()[:3],
                *k.stride()[:3],
                cos.stride(0) if several else 0,
                cos.stride(1),
                sin.stride(0) if several else 0,
                sin.stride(1),
                -1.0 if back else 1.0,
                rest=triton.next_power_of_2(dim - 2 * half) if dim > 2 * half else 0,
                heads=heads,
                block=block,
                num_warps=4,
            )
    return q_out.transpose(1, 2), k_out.transpose(1, 2)
