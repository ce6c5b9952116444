"""`attn_implementation: xformers`: memory-efficient attention of the package xformers.

Source: Lefaudeux et al., "xFormers: A modular and hackable Transformer modelling library", 2022,
https://github.com/facebookresearch/xformers; Rabe and Staats, 2021, https://arxiv.org/abs/2112.05682.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.errors import ModelError
from siredon.model.varlen import Documents


def attend(documents: Documents) -> torch.Tensor:
    """Attention by the fastest kernel of xformers that has these formats and sizes, shape [N, H, D].

    Raises:
        ModelError: xformers cannot be loaded, has no such kernel, or the scores are capped.
    """
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError as error:
        # Built for another PyTorch, or beside a package of which it takes another version, such as flash-attn-4
        raise ModelError(
            f"`attn_implementation: xformers`: the package xformers cannot be loaded: {error}",
            "Install an xformers built for this PyTorch, without flash-attn-4 beside it, or write "
            "`attn_implementation: sdpa`.",
        ) from error
    if documents.softcap is not None:
        raise ModelError(
            "`attn_implementation: xformers` cannot cap scores, as this model does",
            "Write `attn_implementation: flex_attention`, or `eager`.",
        )
    # xformers has no backward pass for grouped heads: each is repeated, and autograd sums their gradients.
    repeats = documents.query.shape[1] // documents.key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (documents.key, documents.value))
    try:
        result: torch.Tensor = memory_efficient_attention(
            documents.query[None],
            key[None],
            value[None],
            attn_bias=build_mask(documents),
            p=documents.dropout,
            scale=documents.scale,
        )
    except NotImplementedError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise ModelError(
            f"`attn_implementation: xformers` has no kernel for this model on this device: {reason}",
            "Write `attn_implementation: sdpa`.",
        ) from error
    return result[0]


def build_mask(documents: Documents) -> Any:
    """The borders of documents, as xformers takes them: causal from the end of each, within the window if any."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    queries, keys = documents.query_lengths, documents.key_lengths
    blocks = BlockDiagonalMask.from_seqlens(queries, keys, device=documents.query.device)
    window = documents.window
    if window is not None and window >= max(keys):
        window = None
    # Kernels that have a backward pass for one kind lack it for the other.
    if queries == keys:
        return blocks.make_causal() if window is None else blocks.make_local_attention(window)
    if window is None:
        return blocks.make_causal_from_bottomright()
    return blocks.make_local_attention_from_bottomright(window)
