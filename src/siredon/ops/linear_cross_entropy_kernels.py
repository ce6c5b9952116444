"""Losses of rows of logits, in Triton: read twice and written once, over themselves.

Each program has one row, which it goes through in blocks: first the softmax's sum with a running maximum (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018, https://arxiv.org/abs/1805.02867), then the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from siredon.ops.linear_cross_entropy import RowOptions
    from siredon.ops.token_statistics import RowGradients

#: Logits of a row that are in hand at once, and how many of them a thread has.
_MOST_BLOCK, _PER_THREAD = 8192, 16
#: Logits of a row that a program has where no sum is taken: 8 for each thread of 4 warps.
_GRADIENT_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _bend(raw: tl.tensor, softcap: tl.tensor) -> tl.tensor:
    """tanh(raw / softcap): near 0 as a series, where the exponential's rounding is as large as the result."""
    x = raw / softcap
    square = x * x
    near = x * (1.0 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315))))
    return tl.where(tl.abs(x) < 0.1, near, 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0))


@triton.jit  # type: ignore[untyped-decorator]
def _score_kernel(  # noqa: PLR0913, C901 - a kernel takes pointers and numbers; its branches are constants
    logits: tl.tensor,
    targets: tl.tensor,
    weights: tl.tensor,
    losses: tl.tensor,
    num_ids: tl.tensor,
    stride: tl.tensor,
    softcap: tl.tensor,
    scale: tl.tensor,
    smoothing: tl.tensor,
    z_loss: tl.tensor,
    unit: tl.tensor,
    caps: tl.constexpr,
    smooths: tl.constexpr,
    weighs: tl.constexpr,
    writes: tl.constexpr,
    ignore: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Loss of a row, and over its logits their gradients."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    columns = tl.arange(0, block)
    # Finite, and below every logit: its difference to another is a number
    most = -1.0e38
    total = 0.0
    together = 0.0
    for start in range(0, num_ids, block):
        ids = start + columns
        inside = ids < num_ids
        raw = tl.load(logits + ids, mask=inside, other=0.0).to(tl.float32)
        if caps:
            raw = _bend(raw, softcap) * softcap
        values = raw * scale
        if smooths:
            together += tl.sum(tl.where(inside, values, 0.0), axis=0)
        values = tl.where(inside, values, float("-inf"))
        higher = tl.maximum(most, tl.max(values, axis=0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(values - higher), axis=0)
        most = higher
    log_sum = most + tl.log(total)

    is_target = target != ignore
    # An id that is none gives a loss that is no number, so that it is seen
    exists = (target >= 0) & (target < num_ids)
    wanted = tl.load(logits + target, mask=exists, other=float("nan")).to(tl.float32)
    if caps:
        wanted = _bend(wanted, softcap) * softcap
    share = 1.0
    if weighs:
        share = tl.load(weights + row).to(tl.float32)
    loss = log_sum - (1.0 - smoothing) * wanted * scale + z_loss * log_sum * log_sum
    if smooths:
        loss -= smoothing * together / num_ids
    tl.store(losses + row, tl.where(is_target, loss * share, 0.0))

    if writes:
        # Every thread has read the target's logit before any writes over it
        tl.debug_barrier()
        share = tl.where(is_target, share, 0.0) * (scale * unit)
        slope = 1.0 + 2.0 * z_loss * log_sum
        for start in range(0, num_ids, block):
            ids = start + columns
            inside = ids < num_ids
            raw = tl.load(logits + ids, mask=inside, other=0.0).to(tl.float32)
            bend = raw
            if caps:
                bend = _bend(raw, softcap)
                raw = bend * softcap
            gradient = tl.exp(raw * scale - log_sum) * slope
            if smooths:
                gradient -= smoothing / num_ids
            gradient = tl.where(ids == target, gradient - (1.0 - smoothing), gradient) * share
            if caps:
                gradient *= 1.0 - bend * bend
            tl.store(logits + ids, gradient.to(logits.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _statistics_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    logits: tl.tensor,
    targets: tl.tensor,
    log_probs: tl.tensor,
    log_sums: tl.tensor,
    entropies: tl.tensor,
    num_ids: tl.tensor,
    stride: tl.tensor,
    softcap: tl.tensor,
    scale: tl.tensor,
    caps: tl.constexpr,
    measures: tl.constexpr,
    ignore: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Log-probability of a row's target, its logsumexp, and the entropy of its softmax, in one pass."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    columns = tl.arange(0, block)
    most = -1.0e38
    total = 0.0
    # Sum of exp(value - most) * (value - most)
    moment = 0.0
    for start in range(0, num_ids, block):
        ids = start + columns
        inside = ids < num_ids
        raw = tl.load(logits + ids, mask=inside, other=0.0).to(tl.float32)
        if caps:
            raw = _bend(raw, softcap) * softcap
        values = raw * scale
        higher = tl.maximum(most, tl.max(tl.where(inside, values, float("-inf")), axis=0))
        shrinks = tl.exp(most - higher)
        above = values - higher
        parts = tl.where(inside, tl.exp(above), 0.0)
        if measures:
            moment = shrinks * (moment + (most - higher) * total) + tl.sum(parts * above, axis=0)
        total = total * shrinks + tl.sum(parts, axis=0)
        most = higher
    exists = (target >= 0) & (target < num_ids)
    wanted = tl.load(logits + target, mask=exists, other=float("nan")).to(tl.float32)
    if caps:
        wanted = _bend(wanted, softcap) * softcap
    log_sum = most + tl.log(total)
    tl.store(log_sums + row, log_sum)
    tl.store(log_probs + row, tl.where(target == ignore, 0.0, wanted * scale - log_sum))
    if measures:
        tl.store(entropies + row, tl.log(total) - moment / total)


@triton.jit  # type: ignore[untyped-decorator]
def _statistics_gradient_kernel(  # noqa: PLR0913 - a kernel takes pointers and numbers
    logits: tl.tensor,
    targets: tl.tensor,
    log_sums: tl.tensor,
    entropies: tl.tensor,
    upstream: tl.tensor,
    entropy_upstream: tl.tensor,
    num_ids: tl.tensor,
    stride: tl.tensor,
    softcap: tl.tensor,
    scale: tl.tensor,
    caps: tl.constexpr,
    measures: tl.constexpr,
    ignore: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradients over the logits of a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    log_sum = tl.load(log_sums + row)
    factor = tl.where(target == ignore, 0.0, tl.load(upstream + row))
    ids = tl.program_id(1) * block + tl.arange(0, block)
    inside = ids < num_ids
    raw = tl.load(logits + ids, mask=inside, other=0.0).to(tl.float32)
    bend = raw
    if caps:
        bend = _bend(raw, softcap)
        raw = bend * softcap
    log_prob = raw * scale - log_sum
    prob = tl.exp(log_prob)
    gradient = tl.where(ids == target, 1.0 - prob, -prob) * factor
    if measures:
        gradient -= tl.load(entropy_upstream + row) * prob * (log_prob + tl.load(entropies + row))
    gradient *= scale
    if caps:
        gradient *= 1.0 - bend * bend
    tl.store(logits + ids, gradient.to(logits.dtype.element_ty), mask=inside)


def score_rows_(logits: Tensor, targets: Tensor, weights: Tensor | None, options: RowOptions) -> Tensor:
    """Losses [n], fp32, of logits [n, V], which become their gradients if wanted; as the plain path does it."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if not len(logits):
        return losses
    block, num_warps = _choose_block(logits.shape[1])
    _score_kernel[(len(logits),)](
        logits,
        targets.contiguous(),
        targets if weights is None else weights.contiguous(),
        losses,
        logits.shape[1],
        logits.stride(0),
        float(options.softcap),
        float(options.scale),
        float(options.label_smoothing),
        float(options.z_loss),
        float(options.unit),
        caps=options.softcap != 0,
        smooths=options.label_smoothing != 0,
        weighs=weights is not None,
        writes=options.writes,
        ignore=-100,
        block=block,
        num_warps=num_warps,
    )
    return losses


def read_statistics(
    logits: Tensor, targets: Tensor, softcap: float, scale: float, *, measures: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the targets, entropies if wanted, else nothing, and sums, of logits [n, V]; fp32."""
    num = len(logits)
    log_probs, log_sums, entropies = torch.empty(3, num, dtype=torch.float32, device=logits.device)
    if num:
        block, num_warps = _choose_block(logits.shape[1])
        _statistics_kernel[(num,)](
            logits,
            targets.contiguous(),
            log_probs,
            log_sums,
            entropies,
            logits.shape[1],
            logits.stride(0),
            float(softcap),
            float(scale),
            caps=softcap != 0,
            measures=measures,
            ignore=-100,
            block=block,
            num_warps=num_warps,
        )
    return log_probs, entropies if measures else entropies[:0], log_sums


def write_gradients_(
    logits: Tensor, targets: Tensor, given: RowGradients, softcap: float, scale: float
) -> None:
    """Logits [n, V] become their gradients."""
    num, num_ids = logits.shape
    if not num:
        return
    block = min(triton.next_power_of_2(num_ids), _GRADIENT_BLOCK)
    measures = given.entropy_upstream is not None
    _statistics_gradient_kernel[(num, triton.cdiv(num_ids, block))](
        logits,
        targets.contiguous(),
        given.log_sums,
        given.entropies if measures else given.log_sums,
        given.upstream,
        given.entropy_upstream if measures else given.upstream,
        num_ids,
        logits.stride(0),
        float(softcap),
        float(scale),
        caps=softcap != 0,
        measures=measures,
        ignore=-100,
        block=block,
    )


def _choose_block(num_ids: int) -> tuple[int, int]:
    """Logits of a row that are in hand at once, and warps for them."""
    block = min(triton.next_power_of_2(num_ids), _MOST_BLOCK)
    return block, max(4, block // (32 * _PER_THREAD))
