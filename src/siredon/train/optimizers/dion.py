"""`optimizer: dion`: Dion for hidden matrices, AdamW for embeddings, head, vectors and whatever is no matrix.

The update of a matrix is an orthonormal one of low rank; what it leaves out stays in the momentum.

Source: Ahn et al., "Dion: Distributed Orthonormalized Updates", 2025, https://arxiv.org/abs/2504.05295, algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from siredon.train.hybrid import HybridOptimizer
from siredon.train.optimize import Material, TorchGroup

_SMALLEST_NORM = 1e-7


class Dion(HybridOptimizer):
    """Dion of whole matrices.

    For a matrix X [m, n] with momentum M and basis Q [n, r]: B = M + G; P = an orthonormal basis of B Q;
    R = B^T P; M <- B - (1 - mu) P R^T; Q <- R with columns of norm 1; X <- X - lr sqrt(m / n) P Q^T.
    """

    def update_matrix_(
        self, matrix: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: TorchGroup
    ) -> None:
        """One power iteration."""
        rows, columns = matrix.shape
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
            state["basis"] = self._draw_basis(matrix, group)
        total = (state["momentum"] + gradient).float()
        left, _ = torch.linalg.qr(total @ state["basis"].float())
        right = total.T @ left
        state["momentum"].copy_(total - (1 - group["momentum"]) * (left @ right.T))
        right = right / right.norm(dim=0).clamp(min=_SMALLEST_NORM)
        state["basis"].copy_(right)
        rate = group["lr"] * math.sqrt(rows / columns)
        matrix.add_((left @ right.T).to(matrix.dtype), alpha=-rate)

    def _draw_basis(self, matrix: torch.Tensor, group: TorchGroup) -> torch.Tensor:
        """Random orthonormal columns, the same ones on every rank."""
        rows, columns = matrix.shape
        step = group["rank_multiple_of"]
        rank = math.ceil(group["rank_fraction"] * min(rows, columns) / step) * step
        generator = torch.Generator().manual_seed(group["seed"] + len(self.state))
        drawn = torch.randn(columns, min(rank, rows, columns), generator=generator)
        basis: torch.Tensor = torch.linalg.qr(drawn)[0].to(matrix)
        return basis


def build_dion(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """Dion with AdamW beside it."""
    dion = material.dion
    matrix: dict[str, Any] = {
        "momentum": 0.95 if dion.dion_momentum is None else dion.dion_momentum,
        "rank_fraction": dion.dion_rank_fraction,
        "rank_multiple_of": dion.dion_rank_multiple_of,
        "seed": material.seed,
    }
    if dion.dion_lr is not None:
        matrix["lr"] = dion.dion_lr
    return Dion(groups, material, matrix)


OPTIMIZER = build_dion
