"""Dropout on the input of a low-rank adapter, whose mask is made again from a seed wherever it is needed.

Neither the mask nor the dropped input is kept for the backward pass: a seed of 8 bytes stands for both.  What is kept
is not multiplied by `1 / (1 - rate)` here: the scale of the adapter takes that factor, and no input is rounded for it.

Shapes: N rows, I inputs, r columns of the adapter.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014; numbers by
counter: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton

#: What seeds are below.
_MOST = 2**63 - 1


def draw_seeds(count: int, device: torch.device) -> Tensor:
    """Seeds, int64 [count], of the generator of the device: what restores its state draws the same ones.

    They stay on the device: no GPU is waited for.
    """
    return torch.randint(_MOST, (count,), device=device)


def keep(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """The input where the mask of a seed keeps it, and zero elsewhere; on one device always the same places.

    Args:
        x: Shape [N, I], in any float format.
        seed: One of `draw_seeds`, of no dims.
        rate: Which share is not kept, 0 to 1; the kernel for a GPU rounds it to a multiple of 1 / 65,536.

    Returns:
        Shape [N, I], contiguous.
    """
    kept: Tensor = _keep(x, seed, rate)
    return kept


def multiply_kept(x: Tensor, a: Tensor, seed: Tensor, rate: float) -> Tensor:
    """Equals `keep(x, seed, rate) @ a.T`, [N, r], with `a` of shape [r, I] in the format of `x`."""
    return keep(x, seed, rate) @ a.t()


def differentiate_kept(back: Tensor, x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """Equals `back.T @ keep(x, seed, rate)`, the gradient [r, I] of `a`, with that of the product, [N, r]."""
    return back.t() @ keep(x, seed, rate)


def add_kept_(total: Tensor, back: Tensor, a: Tensor, seed: Tensor, rate: float) -> None:
    """Adds `keep(back @ a, seed, rate)` to the gradient of the input, [N, I], contiguous."""
    _add_kept_(total, back, a, seed, rate)


def _draw_mask(like: Tensor, seed: Tensor, rate: float) -> Tensor:
    """The plain path: which places are kept."""
    generator = torch.Generator(like.device).manual_seed(int(seed))
    mask = torch.empty(like.shape, dtype=torch.bool, device=like.device)
    return mask.bernoulli_(1 - rate, generator=generator)


@torch.library.custom_op("siredon::keep", mutates_args=())
def _keep(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    return torch.where(_draw_mask(x, seed, rate), x, 0.0).contiguous()


@_keep.register_kernel(GPU)
def _(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    if not has_triton() or x.dtype is torch.float64:
        return torch.where(_draw_mask(x, seed, rate), x, 0.0).contiguous()
    from siredon.ops.seeded_dropout_kernels import launch_keep

    return launch_keep(x, seed, rate)


@_keep.register_fake
def _(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("siredon::add_kept_", mutates_args={"total"})
def _add_kept_(total: Tensor, back: Tensor, a: Tensor, seed: Tensor, rate: float) -> None:
    total.addcmul_(_draw_mask(total, seed, rate).to(total.dtype), back @ a)


@_add_kept_.register_kernel(GPU)
def _(total: Tensor, back: Tensor, a: Tensor, seed: Tensor, rate: float) -> None:
    if not has_triton() or total.dtype is torch.float64:
        total.addcmul_(_draw_mask(total, seed, rate).to(total.dtype), back @ a)
        return
    from siredon.ops.seeded_dropout_kernels import launch_add_

    launch_add_(total, back, a, seed, rate)


@_add_kept_.register_fake
def _(total: Tensor, back: Tensor, a: Tensor, seed: Tensor, rate: float) -> None:
    return None
