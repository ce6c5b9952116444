"""Logits and labels -> loss."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from siredon.data.types import IGNORE
from siredon.ops.divergence import compare_logits


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor, *, chunk_rows: int = 4096) -> torch.Tensor:
    """Summed cross-entropy in fp32.

    Equals `F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="sum")`.  With more
    than `chunk_rows` rows, the fp32 copy of the logits exists for one chunk at a time and is made again in
    the backward pass.

    Args:
        logits: Shape [..., V], any floating type.
        targets: Ids of shape [...]; `IGNORE` is no target.
        chunk_rows: Rows converted to fp32 at once.

    Returns:
        A scalar, fp32; 0 with a zero gradient if nothing is a target.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    wanted = targets.reshape(-1)
    if len(flat) <= chunk_rows:
        return _chunk_sum(flat, wanted)
    total = torch.zeros((), dtype=torch.float32, device=flat.device)
    for rows, ids in zip(torch.split(flat, chunk_rows), torch.split(wanted, chunk_rows), strict=True):
        part = checkpoint(_chunk_sum, rows, ids, use_reentrant=False)
        assert isinstance(part, torch.Tensor)
        total = total + part
    return total


def target_log_probs(logits: torch.Tensor, targets: torch.Tensor, *, chunk_rows: int = 4096) -> torch.Tensor:
    """Log-probability of each target, [...], fp32; 0 where there is none.

    The fp32 copy of the logits, [..., V], exists for one chunk at a time, as in `cross_entropy_sum`.
    """
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    parts = [
        checkpoint(_chunk_log_probs, rows, ids, use_reentrant=False)
        for rows, ids in zip(torch.split(flat, chunk_rows), torch.split(wanted, chunk_rows), strict=True)
    ]
    return torch.cat(parts).view_as(targets)


def target_collisions(logits: torch.Tensor, targets: torch.Tensor, *, chunk_rows: int = 4096) -> torch.Tensor:
    """Log-probability of two draws in the place of a target being one token, [...], fp32, without gradient.

    The logarithm of the sum of squared probabilities, as `ops.token_statistics.collision_statistics` has it; 0 where
    there is no target.
    """
    flat, wanted = logits.detach().reshape(-1, logits.shape[-1]), targets.reshape(-1)
    parts = [
        torch.logsumexp(2 * rows.float().log_softmax(-1), -1).where(ids != IGNORE, 0.0)
        for rows, ids in zip(torch.split(flat, chunk_rows), torch.split(wanted, chunk_rows), strict=True)
    ]
    return torch.cat(parts).view_as(targets)


def target_entropies(logits: torch.Tensor, targets: torch.Tensor, *, chunk_rows: int = 1024) -> torch.Tensor:
    """Entropy of the softmax that each target is drawn from, [...], fp32, in nats, without gradient.

    Equals `-(p.exp() * p).sum(-1)` with `p = logits.float().log_softmax(-1)`, as in `ops.token_statistics`; 0 where
    there is no target.
    """
    flat, wanted = logits.detach().reshape(-1, logits.shape[-1]), targets.reshape(-1)
    parts = []
    for rows, ids in zip(torch.split(flat, chunk_rows), torch.split(wanted, chunk_rows), strict=True):
        logs = rows.float().log_softmax(-1)
        parts.append(-(logs.exp() * logs).sum(-1).where(ids != IGNORE, 0.0))
    return torch.cat(parts).view_as(targets)


@torch.no_grad()
def target_divergences(
    logits: torch.Tensor, others: torch.Tensor, targets: torch.Tensor, *, chunk_rows: int = 1024
) -> torch.Tensor:
    """Divergence of logits [..., V] from others in the place of each target, [...], fp32, without gradient.

    As `ops.divergence.measure_divergences` has it, in nats; 0 where there is no target.
    """
    flat, rest, wanted = (
        *(each.reshape(-1, each.shape[-1]) for each in (logits, others)),
        targets.reshape(-1),
    )
    chunks = (torch.split(each, chunk_rows) for each in (flat, rest, wanted))
    parts = [
        compare_logits(rows, against).where(ids != IGNORE, 0.0)
        for rows, against, ids in zip(*chunks, strict=True)
    ]
    return torch.cat(parts).view_as(targets)


def sum_by_source(
    logits: torch.Tensor,
    targets: torch.Tensor,
    sources: torch.Tensor,
    num_sources: int,
    *,
    chunk_rows: int = 4096,
) -> torch.Tensor:
    """Summed cross-entropy of each data set, and the number of its targets; for looking at, without gradients.

    Args:
        logits: Shape [..., V], any floating type.
        targets: Ids of shape [...]; `IGNORE` is no target.
        sources: Data set of each target, from 0, shape [...].
        num_sources: How many there are.
        chunk_rows: Rows converted to fp32 at once.

    Returns:
        Shape [2, num_sources], fp64.
    """
    flat = logits.detach().reshape(-1, logits.shape[-1])
    wanted, source = targets.reshape(-1), sources.reshape(-1)
    sums = torch.zeros(2, num_sources, dtype=torch.float64, device=flat.device)
    for start in range(0, len(flat), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        losses = functional.cross_entropy(
            flat[chunk].float(), wanted[chunk], ignore_index=IGNORE, reduction="none"
        )
        sums[0].index_add_(0, source[chunk], losses.double())
        sums[1].index_add_(0, source[chunk], (wanted[chunk] != IGNORE).double())
    return sums


def sum_losses_by_source(
    losses: torch.Tensor, targets: torch.Tensor, sources: torch.Tensor, num_sources: int
) -> torch.Tensor:
    """The same as `sum_by_source`, from the loss of each token, of shape [...] like targets and sources."""
    sums = torch.zeros(2, num_sources, dtype=torch.float64, device=losses.device)
    source = sources.reshape(-1)
    sums[0].index_add_(0, source, losses.detach().reshape(-1).double())
    sums[1].index_add_(0, source, (targets.reshape(-1) != IGNORE).double())
    return sums


def _chunk_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="none")


def _chunk_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
