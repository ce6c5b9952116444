"""Attention of transformers by a kernel that takes documents of different lengths end to end, without padding.

Shapes: B rows, T tokens a row, N tokens end to end, H heads, G heads of keys and values, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from siredon.errors import ModelError


@dataclass(frozen=True)
class Documents:
    """What a kernel is given: documents end to end, each seen by itself alone.

    Query i of a document with q queries and k keys sees keys j <= i + k - q, and of those the last `window`.

    Args:
        query: Shape [N, H, D].
        key: Shape [M, G, D]; each head of it serves H / G heads of the queries, in their order.
        value: Shape [M, G, D].
        query_lengths: Queries of each document; they sum to N.
        key_lengths: Keys of each document; they sum to M, and are no fewer than the queries.
        scale: Factor of the scores.
        window: Keys that a query sees, its own included; None for all.
        softcap: c of `c * tanh(score / c)`; None leaves scores as they are.
        dropout: Probability with which a weight is dropped.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    scale: float
    window: int | None
    softcap: float | None
    dropout: float


#: Computes attention, shape [N, H, D].
Attend = Callable[[Documents], torch.Tensor]


def build_attention(attend: Attend, name: str) -> Callable[..., tuple[torch.Tensor, None]]:
    """Attention as transformers calls it, over the documents of its batch.

    Args:
        attend: The kernel.
        name: Value of `attn_implementation`, for messages.

    Returns:
        A function for `transformers.AttentionInterface`.  It takes a query of shape [B, H, T, D], keys and values of
        shape [B, G, S, D], and gives [B, T, H, D].  Documents are read off `position_ids`, or, where there is a mask
        of shape [B, S] or a cache, are the rows without their padding.  It raises ModelError for what no such kernel
        computes.
    """

    def compute(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        _check_kind(module, attention_mask, options, name)
        layout = _lay_out(query.shape, key.shape, attention_mask, options.get("position_ids"))
        scale = options.get("scaling")
        parts = _align(query, key, value)
        documents = Documents(
            query=_flatten(parts[0], layout.queries),
            key=_flatten(parts[1], layout.keys),
            value=_flatten(parts[2], layout.keys),
            query_lengths=layout.query_lengths,
            key_lengths=layout.key_lengths,
            scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
            window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            dropout=options.get("dropout", 0.0),
        )
        result = attend(documents)
        if torch.is_grad_enabled() and query.requires_grad and not result.requires_grad:
            raise ModelError(
                f"`attn_implementation: {name}` has no backward pass: queries, keys and values would not be trained",
                "Write `attn_implementation: sdpa`.",
            )
        return _unflatten(result, layout.queries, query), None

    return compute


@dataclass(frozen=True)
class _Layout:
    """Which tokens take part, as queries and as keys, shape [B * T] (None for all), and how long documents are."""

    queries: torch.Tensor | None
    keys: torch.Tensor | None
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]


def _check_kind(
    module: torch.nn.Module, mask: torch.Tensor | None, options: dict[str, Any], name: str
) -> None:
    causal = options.get("is_causal")
    lacking = {
        "attention in both directions": not (module.is_causal if causal is None else causal),
        "attention sinks": options.get("s_aux") is not None,
        "a bias of positions": options.get("position_bias") is not None,
        "a mask of its own": mask is not None and mask.dim() != 2,
    }
    for what, is_asked in lacking.items():
        if is_asked:
            raise ModelError(
                f"`attn_implementation: {name}` computes no attention with {what}, as this model has it",
                "Write `attn_implementation: sdpa`, or `eager`.",
            )


def _align(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In one format: norms in fp32 leave queries and keys in it, under autocast and beside 16-bit values."""
    device = parts[0].device.type
    if parts[0].dtype == torch.float32 and torch.is_autocast_enabled(device):
        return tuple(part.to(torch.get_autocast_dtype(device)) for part in parts)
    return tuple(part.to(parts[-1].dtype) for part in parts)


def _flatten(part: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """[B, H, T, D] -> [N, H, D]."""
    flat = part.transpose(1, 2).flatten(0, 1)
    return flat if kept is None else flat[kept]


def _unflatten(result: torch.Tensor, kept: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """[N, H, D] -> [B, T, H, D], zero where a token is padding."""
    rows, _, length, _ = query.shape
    if kept is not None:
        whole = result.new_zeros((rows * length, *result.shape[1:]))
        whole[kept] = result
        result = whole
    return result.reshape(rows, length, *result.shape[1:])


def _lay_out(
    query: torch.Size, key: torch.Size, mask: torch.Tensor | None, positions: torch.Tensor | None
) -> _Layout:
    rows, num_queries, num_keys = query[0], query[2], key[2]
    if mask is not None:
        keys = mask[:, -num_keys:].bool()
        queries = keys[:, -num_queries:]
        return _Layout(queries.flatten(), keys.flatten(), _count(queries), _count(keys))
    if positions is None or num_queries != num_keys:
        return _Layout(None, None, (num_queries,) * rows, (num_keys,) * rows)
    lengths = _measure(positions, rows)
    return _Layout(None, None, lengths, lengths)


def _count(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(mask.sum(dim=-1).tolist())


def _measure(positions: torch.Tensor, rows: int) -> tuple[int, ...]:
    """Lengths of documents, row after row."""
    return tuple(end - start for start, end in pairwise(find_starts(positions, rows).tolist()))


def find_starts(positions: torch.Tensor, rows: int) -> torch.Tensor:
    """Where documents begin, row after row, and where the last one ends, [documents + 1].

    One begins where a position is not the one before it plus 1.
    """
    if positions.dim() == 3:  # one plane each for text, height and width; those of text come first
        positions = positions[0]
    positions = positions.expand(rows, -1)
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions.diff(dim=-1) != 1
    starts = begins.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([positions.numel()])])
