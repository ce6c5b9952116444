"""How far two predictions of the next token are apart, from hidden states and heads, a chunk of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from siredon.ops.head_rows import (
    IGNORE,
    choose_chunk_rows,
    empty_logits,
    match_formats,
    multiply_,
    split_rows,
)
from siredon.ops.linear_cross_entropy import PLAIN, LossOptions


@dataclass(frozen=True)
class Projection:
    """What logits are made of.

    Args:
        hidden: Shape [N, H].
        weight: Of the head, [V, H], in the same format.
        bias: Of the head, [V].
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


@torch.no_grad()
def measure_divergences(
    one: Projection, other: Projection, targets: Tensor, *, options: LossOptions = PLAIN
) -> Tensor:
    """The divergence of the first prediction from the second (Kullback-Leibler), exact over the vocabulary, in nats.

    With `p` and `q` the `log_softmax(scale * softcap * tanh((hidden @ weight.T + bias) / softcap).float())` of both,
    equals `(p.exp() * (p - q)).sum(1)`.  Both heads are gone through once; two chunks of logits exist at a time.

    Args:
        one: What tokens would be drawn from.
        other: What it is compared with, of as many rows and ids.
        targets: Ids, [N]; a row whose id is -100 is left out, and has 0.
        options: `softcap` and `scale`, of both; `chunk_rows` and `num_targets`.

    Returns:
        Shape [N], fp32, without gradient.

    Raises:
        ValueError: Hidden states and weights are in different formats, or there is not one target for each row.
    """
    sides = [match_formats(side.hidden, side.weight, side.bias, targets) for side in (one, other)]
    first, head, _ = sides[0]
    # Two chunks at a time, each half as large
    chunk_rows = options.chunk_rows or choose_chunk_rows(len(first), len(head), first.element_size())
    chunk_rows = max(1, chunk_rows // 2)
    found = torch.zeros(len(first), dtype=torch.float32, device=first.device)
    num_targets = -1 if options.num_targets is None else options.num_targets
    with torch.autocast(first.device.type, enabled=False):
        rooms = [empty_logits(hidden, weight, min(chunk_rows, len(hidden))) for hidden, weight, _ in sides]
        for place in split_rows(targets, num_targets, chunk_rows):
            logits = [
                multiply_(room, hidden[place], weight, bias)
                for room, (hidden, weight, bias) in zip(rooms, sides, strict=True)
            ]
            found[place] = compare_logits(*(_bend(each, options) for each in logits))
    return found.where(targets != IGNORE, 0.0)


def compare_logits(one: Tensor, other: Tensor) -> Tensor:
    """The divergence of each row of logits [n, V] from that of others, [n], fp32; see `measure_divergences`."""
    logs = one.float().log_softmax(-1)
    return (logs.exp() * (logs - other.float().log_softmax(-1))).sum(-1)


def _bend(logits: Tensor, options: LossOptions) -> Tensor:
    values = logits.float()
    if options.softcap:
        values = torch.tanh(values / options.softcap) * options.softcap
    return values * options.scale
