"""`attn_implementation: owner/name`: attention by a kernel of the Hugging Face hub, through the package kernels.

A kernel is a program of its owner's; it is loaded where a config names it, and nowhere else.
Source: https://huggingface.co/docs/kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import Any

import torch

from siredon.config.attentions import KERNEL_VERSIONS
from siredon.errors import ModelError
from siredon.model.locate import LOADING_ERRORS
from siredon.model.varlen import Attend, Documents

#: The function of flash attention for documents end to end, which a kernel has to have.
_FUNCTION = "flash_attn_varlen_func"


@cache
def load_kernel(name: str) -> Callable[..., Any]:
    """The attention of a kernel: `flash_attn_varlen_func`, by the names of flash-attn.

    Args:
        name: `owner/name`, and `@revision` (a branch, a tag or a commit) where it is not the version that is known.

    Raises:
        ModelError: It cannot be had, does not run here, or is no attention.
    """
    from kernels import get_kernel

    repository, _, revision = name.partition("@")
    which: dict[str, Any] = {"revision": revision}
    if not revision:
        which = {"version": KERNEL_VERSIONS.get(repository, 1)}
    try:
        # The user has named it: that is the trust that it asks for.
        kernel = get_kernel(repository, **which, trust_remote_code=True)
    except LOADING_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"`attn_implementation: {name}` cannot be loaded by the package kernels: {reason}",
            "Check the name, its revision and the network, or write `attn_implementation: sdpa`.",
        ) from error
    found = vars(kernel)
    if _FUNCTION not in found:
        public = sorted(word for word in found if not word.startswith("_"))
        raise ModelError(
            f"`attn_implementation: {name}` is no attention: it has no `{_FUNCTION}`, only {', '.join(public)}",
            "Name a kernel of flash attention, or write `attn_implementation: sdpa`.",
        )
    function: Callable[..., Any] = found[_FUNCTION]
    return function


def build_attend(name: str) -> Attend:
    """Attention by that kernel, which is loaded when it first computes, or before by `load_kernel`."""

    def attend(documents: Documents) -> torch.Tensor:
        function = load_kernel(name)
        result = function(
            q=documents.query,
            k=documents.key,
            v=documents.value,
            cu_seqlens_q=_list_starts(documents.query_lengths, documents.query.device),
            cu_seqlens_k=_list_starts(documents.key_lengths, documents.key.device),
            max_seqlen_q=max(documents.query_lengths),
            max_seqlen_k=max(documents.key_lengths),
            softmax_scale=documents.scale,
            causal=True,
            **_choose_options(function, documents, name),
        )
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output

    return attend


def _list_starts(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where documents begin, and the last ends: int32, one more than there are documents."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _choose_options(function: Callable[..., Any], documents: Documents, name: str) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if documents.softcap is not None:
        wanted["softcap"] = documents.softcap
    if documents.dropout:
        wanted["dropout_p"] = documents.dropout
    if documents.window is not None and documents.window < max(documents.key_lengths):
        # Borders of flash attention are keys to the left and to the right of a query's own.
        wanted["window_size"] = (documents.window - 1, 0)
    known = inspect.signature(function).parameters
    for option in wanted:
        if option not in known:
            raise ModelError(
                f"`attn_implementation: {name}` has no `{option}`, which this model needs",
                "Write `attn_implementation: flex_attention`, or `eager`.",
            )
    return wanted
