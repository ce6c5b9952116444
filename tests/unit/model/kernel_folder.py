"""A kernel of the hub as its folder is: written by a test, in plain Python, so that it runs on any machine."""

from __future__ import annotations

import json
from pathlib import Path

#: Flash attention over documents end to end, query by query, in fp64: the slow truth.
NAIVE = """
import torch


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
):
    assert causal and dropout_p == 0 and cu_seqlens_q.dtype == torch.int32
    groups = q.shape[1] // k.shape[1]
    rows = []
    for document in range(len(cu_seqlens_q) - 1):
        first, last = cu_seqlens_q[document].item(), cu_seqlens_q[document + 1].item()
        start, end = cu_seqlens_k[document].item(), cu_seqlens_k[document + 1].item()
        assert last - first <= max_seqlen_q and end - start <= max_seqlen_k
        for query in range(first, last):
            own = end - (last - query)
            left = start if window_size[0] < 0 else max(start, own - window_size[0])
            keys = k[left : own + 1].double().repeat_interleave(groups, 1)
            values = v[left : own + 1].double().repeat_interleave(groups, 1)
            scores = torch.einsum("hd,khd->hk", q[query].double(), keys) * softmax_scale
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), values))
    return torch.stack(rows).to(q.dtype)
"""
#: The same without a gradient, and without what is not asked of every kernel.
FORWARD_ONLY = (
    NAIVE.replace("torch.stack(rows)", "torch.stack(rows).detach()")
    .replace("window_size=(-1, -1), softcap=0.0,", "window_size=(-1, -1),")
    .replace("if softcap", "if False")
)


def write_kernel(folder: Path, source: str = NAIVE) -> Path:
    """A kernel for every machine, as `kernels.get_local_kernel` takes it."""
    variant = folder / "build" / "torch-universal"
    variant.mkdir(parents=True)
    (variant / "__init__.py").write_text(source)
    about = {"id": folder.name, "name": folder.name, "version": 1, "license": "MIT", "python-depends": []}
    (variant / "metadata.json").write_text(json.dumps({**about, "backend": {"type": "cpu"}}))
    return folder
