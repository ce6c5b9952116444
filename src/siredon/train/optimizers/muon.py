"""`optimizer: muon`: Muon for hidden matrices, AdamW for embeddings, head, vectors and whatever is no matrix.

The update of a matrix is its momentum with all singular values brought near 1, by Newton-Schulz iteration.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/; the size of an update: Liu et al., "Muon is Scalable for LLM Training",
2025, https://arxiv.org/abs/2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from siredon.train.hybrid import HybridOptimizer, gather_matrix, shard_like
from siredon.train.optimize import Material, TorchGroup

_SMALLEST_NORM = 1e-7


class Muon(HybridOptimizer):
    """Equals `torch.optim.Muon` on matrices and `torch.optim.AdamW` on the rest, also where they are sharded.

    The iteration needs whole matrices: a sharded momentum is gathered on every rank, and each keeps its part.
    """

    def update_matrix_(
        self, matrix: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: TorchGroup
    ) -> None:
        """Momentum, orthogonalized."""
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = group["momentum"]
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(average, momentum) if group["nesterov"] else average
        update = orthogonalize(gather_matrix(update), group["ns_coefficients"], group["ns_steps"])
        rate = group["lr"] * _scale(matrix.shape, group["adjust_lr_fn"])
        matrix.add_(shard_like(update.to(matrix.dtype), matrix), alpha=-rate)


def orthogonalize(
    matrix: torch.Tensor, coefficients: Sequence[float], num_steps: int, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """U S' V^T of a matrix U S V^T, with S' near 1.

    With X = G / |G|, times `num_steps`: A = X X^T, X <- a X + (b A + c A A) X.

    Args:
        matrix: Shape [m, n].
        coefficients: a, b and c.
        num_steps: Iterations.
        dtype: Format of the iteration; bfloat16 is enough, as its result is only near orthogonal.
    """
    a, b, c = coefficients
    value = matrix.to(dtype)
    is_tall = value.shape[0] > value.shape[1]
    value = value.T if is_tall else value
    value = value / value.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(num_steps):
        square = value @ value.T
        polynomial = torch.addmm(square, square, square, beta=b, alpha=c)
        value = torch.addmm(value, polynomial, value, beta=a)
    return value.T if is_tall else value


def _scale(shape: torch.Size, rule: str) -> float:
    """By what the learning rate is multiplied for a matrix [m, n]."""
    if rule == "original":
        return math.sqrt(max(1, shape[0] / shape[1]))
    # An update as large as one of AdamW, so that its learning rate and weight decay can stay
    return 0.2 * math.sqrt(max(shape[0], shape[1]))


def build_muon(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """Muon with AdamW beside it."""
    matrix = {
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.7750, 2.0315),
        "ns_steps": 5,
        "adjust_lr_fn": "match_rms_adamw",
        **material.arguments,
    }
    if matrix["adjust_lr_fn"] not in ("match_rms_adamw", "original"):
        raise ValueError(f"adjust_lr_fn is `match_rms_adamw` or `original`, not {matrix['adjust_lr_fn']!r}")
    return Muon(groups, material, matrix)


OPTIMIZER = build_muon
