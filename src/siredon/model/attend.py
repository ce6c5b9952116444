"""PyTorch's own attention, by the kernel that is fastest for the rows at hand.

Rows that hold one document each go to cuDNN on the GPUs where it is ahead, else to the kernel that PyTorch takes.  Rows
of several documents are computed document by document, end to end (`torch.nn.attention.varlen`), without a mask.
Measured on an H100 (`benchmarks/results/`): for whole rows of 4,096 tokens cuDNN takes about half of the time of flash
attention; for packed instruction data documents end to end take less than any mask.

Shapes: B rows, T tokens a row, H heads, G heads of keys and values, D width of a head.
"""

from __future__ import annotations

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from siredon.hardware import read_capability
from siredon.model.kept_results import seen_by_keeper
from siredon.model.varlen import find_starts

#: What transformers calls it.
NAME = "siredon_sdpa"

#: Widest head that cuDNN has a backward pass for.
_WIDEST = 128

#: Batches whose borders are remembered: more than an optimizer step accumulates, as a rule.
_MOST_SEEN = 256

#: Oldest generation of GPU on which cuDNN was measured to be ahead.
_CUDNN_FROM = (9, 0)


@dataclass(frozen=True)
class Borders:
    """Documents of a batch, end to end.

    Args:
        starts: Where each begins, and where the last one ends, int32, shape [documents + 1]; None if each row is one.
        longest: Tokens of the longest.
    """

    starts: Tensor | None
    longest: int


_WHOLE = Borders(None, 0)


class _Seen:
    """Borders of positions that were measured: all layers of a forward pass ask for the same."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Tensor], Borders]] = OrderedDict()

    def find(self, positions: Tensor) -> Borders | None:
        """The borders of this very tensor, if they were measured."""
        reference, borders = self._known.get(id(positions), (None, _WHOLE))
        return borders if reference is not None and reference() is positions else None

    def keep(self, positions: Tensor, borders: Borders) -> None:
        """Remembers them, and forgets those of long ago."""
        self._known[id(positions)] = (weakref.ref(positions), borders)
        while len(self._known) > _MOST_SEEN:
            self._known.popitem(last=False)


_seen = _Seen()


def measure_ahead(positions: Tensor) -> None:
    """Reads the borders of a batch when the device is waited for anyway, so that no layer has to wait for them.

    Args:
        positions: `position_ids` of a batch, [B, T]: the tensor that the model will be given.
    """
    _seen.keep(positions, _measure(positions, positions.shape[0]))


def register_fast_attention() -> None:
    """Makes it known to transformers, through its registers of attention and of masks."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, build_mask)


def build_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0, **options: Any
) -> Tensor | None:
    """The mask of a batch: none where a causal one, document by document, says it all; else that of `sdpa`."""
    from transformers.masking_utils import sdpa_mask

    is_plain = options.get("attention_mask") is None and not options.get("use_vmap")
    if is_plain and q_length == kv_length and kv_length > 1:
        return None
    mask: Tensor | None = sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **options)
    return mask


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: The layer.
        query: Shape [B, H, T, D].
        key: Shape [B, G, S, D].
        value: Shape [B, G, S, D].
        attention_mask: That of `build_mask`.
        options: `dropout`, the probability with which a weight is dropped; `scaling`, the factor of the scores;
            `position_ids`, or `cu_seq_lens_q` and `max_length_q`, say where documents begin.

    Returns:
        Shape [B, T, H, D], and no weights.
    """
    if attention_mask is not None or query.shape[2] != key.shape[2] or query.shape[2] == 1:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result, None
    dropout, scaling = options.get("dropout", 0.0), options.get("scaling")
    borders = _find_borders(query, options)
    if query.dtype != value.dtype or key.dtype != value.dtype:
        query, key = query.to(value.dtype), key.to(value.dtype)
    with seen_by_keeper():
        if borders.starts is None:
            return _attend_rows(query, key, value, dropout, scaling).transpose(1, 2), None
        if _has_varlen(query, dropout):
            return _attend_documents(query, key, value, borders, scaling), None
        mask = _mask_documents(borders.starts, query)
        result = torch.nn.functional.scaled_dot_product_attention(
            query, *_repeat(query, key, value), attn_mask=mask, dropout_p=dropout, scale=scaling
        )
        return result.transpose(1, 2), None


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    grouped = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "is_causal": True, **grouped}
    run = torch.nn.functional.scaled_dot_product_attention
    if not _prefers_cudnn(query, dropout):
        return run(query, key, value, **options)
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel([*order, SDPBackend.MATH], set_priority=True):
        return run(query, key, value, **options)


def _prefers_cudnn(query: Tensor, dropout: float) -> bool:
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= _WIDEST
        and dropout == 0
        and not torch.are_deterministic_algorithms_enabled()
        and read_capability() >= _CUDNN_FROM
    )


def _has_varlen(query: Tensor, dropout: float) -> bool:
    return query.dtype in (torch.bfloat16, torch.float16) and dropout == 0 and read_capability() >= (8, 0)


@cache
def _list_options() -> frozenset[str]:
    """What the kernel of this PyTorch takes: it differs from version to version, and every layer asks."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _attend_documents(
    query: Tensor, key: Tensor, value: Tensor, borders: Borders, scaling: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    rows, _, length, _ = query.shape
    flat = [part.transpose(1, 2).flatten(0, 1) for part in (query, key, value)]
    taken = _list_options()
    options: dict[str, Any] = {"scale": scaling} if "scale" in taken else {}
    options |= {"window_size": (-1, 0)} if "window_size" in taken else {"is_causal": True}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in taken:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            flat[1:] = [part.repeat_interleave(repeats, dim=1) for part in flat[1:]]
    attend: Callable[..., Any] = varlen_attn  # its parameters differ from version to version
    starts, longest = borders.starts, borders.longest
    result: Tensor = attend(*flat, starts, starts, longest, longest, **options)
    return result.view(rows, length, *result.shape[1:])


def _find_borders(query: Tensor, options: dict[str, Any]) -> Borders:
    starts = options.get("cu_seq_lens_q")
    if starts is not None:
        return Borders(starts, int(options["max_length_q"]))
    positions = options.get("position_ids")
    if positions is None:
        return _WHOLE
    borders = _seen.find(positions)
    if borders is None:
        borders = _measure(positions, query.shape[0])
        _seen.keep(positions, borders)
    return borders


def _measure(positions: Tensor, rows: int) -> Borders:
    starts = find_starts(positions, rows)
    if len(starts) == rows + 1:
        return _WHOLE
    return Borders(starts.to(torch.int32), int(starts.diff().max()))


def _mask_documents(starts: Tensor, query: Tensor) -> Tensor:
    """True where a token is seen: of its own document, and not after it; shape [B, 1, T, T]."""
    rows, _, length, _ = query.shape
    places = torch.arange(rows * length, device=query.device)
    document = torch.searchsorted(starts.long(), places, right=True).view(rows, length)
    order = places[:length]
    same = document[:, :, None] == document[:, None, :]
    return (same & (order[None, :, None] >= order[None, None, :]))[:, None]


def _repeat(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    repeats = query.shape[1] // key.shape[1]
    return key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
