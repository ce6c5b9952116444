"""An optimizer for hidden matrices, and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from siredon.train.optimize import Material, TorchGroup


class HybridOptimizer(torch.optim.Optimizer):
    """Hidden matrices by `update_matrix_`, every other parameter by AdamW.

    Hidden matrices are the two-dimensional parameters but for those of embeddings and head.

    Args:
        groups: Parameters with `lr` and `weight_decay`.
        material: Settings of AdamW, and which parameters are embeddings.
        matrix: What a group of matrices has beside those; `lr` among it replaces the rate of the main group.
    """

    def __init__(self, groups: list[TorchGroup], material: Material, matrix: dict[str, Any]) -> None:
        split: list[TorchGroup] = []
        for group in groups:
            matrices = [value for value in group["params"] if _is_hidden(value, material.embeddings)]
            others = [value for value in group["params"] if not _is_hidden(value, material.embeddings)]
            own = dict(matrix)
            rate = own.pop("lr", None)
            if rate is not None and group["lr"] == material.section.learning_rate:
                own["lr"] = rate
            # Other parameters first where the matrices have a rate of their own: the first rate is the logged one.
            pieces = [
                {**group, **own, "params": matrices, "is_matrix": True},
                {**group, **material.adam, "params": others, "is_matrix": False},
            ]
            split += [piece for piece in (pieces[::-1] if "lr" in own else pieces) if piece["params"]]
        super().__init__(split, {})

    @abstractmethod
    def update_matrix_(
        self, matrix: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: TorchGroup
    ) -> None:
        """Takes one step with a matrix [m, n]; weight decay is done already."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [value for value in group["params"] if value.grad is not None]
            if not group["is_matrix"]:
                self._step_adamw_(parameters, group)
                continue
            for matrix in parameters:
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                self.update_matrix_(matrix, matrix.grad, self.state[matrix], group)
        return loss

    def _step_adamw_(self, parameters: list[torch.Tensor], group: TorchGroup) -> None:
        states = [self.state[value] for value in parameters]
        for value, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(value)
                state["exp_avg_sq"] = torch.zeros_like(value)
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [value.grad for value in parameters if value.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def gather_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """The whole matrix, on every rank, of one that may be sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A matrix that every rank has -> the part of this rank, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, like.placements)


def _is_hidden(value: torch.Tensor, embeddings: frozenset[int]) -> bool:
    return value.ndim == 2 and id(value) not in embeddings
