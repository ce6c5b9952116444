"""`optimizer: adamw_bf16_sr`: AdamW whose bfloat16 weights and moments are rounded up or down at random.

Rounding to the nearest loses every update below 1/256 of a weight.  A random one keeps it on average, without the
memory of a copy in float32: 6 bytes a weight in all, beside its gradient.

Source: Zamirai et al., "Revisiting BFloat16 Training", 2020, https://arxiv.org/abs/2010.06192.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from siredon.train.optimize import Material, TorchGroup

#: A seed of its own for every step and parameter: fewer parameters than this.
_PARAMETERS = 1_000_003
#: Weights that are updated at a time.
_PIECE = 1 << 24


class RoundingAdamW(torch.optim.Optimizer):
    """AdamW in float32, written back to what each tensor is held in; to bfloat16 by stochastic rounding.

    The random bits follow from seed, step and place of the parameter, so a run that goes on draws the same ones, and
    so does every rank.

    Args:
        groups: Parameters with `lr` and `weight_decay`.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
        seed: Seed of the rounding.
    """

    def __init__(self, groups: list[TorchGroup], betas: tuple[float, float], eps: float, seed: int) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                index += 1
                if parameter.grad is not None:
                    self._update_(parameter, parameter.grad, index, group)

    def _update_(self, parameter: torch.Tensor, grad: torch.Tensor, index: int, group: TorchGroup) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = int(state["step"])
        generator = torch.Generator(_local(parameter).device).manual_seed(
            (self._seed * _PARAMETERS + index) * _PARAMETERS + step
        )
        whole = [_local(value) for value in (parameter, grad, state["exp_avg"], state["exp_avg_sq"])]
        # Piece by piece: what is computed in float32 would be several times as large as the weight.
        rows = max(1, _PIECE * max(1, len(whole[0]) if whole[0].dim() else 1) // max(1, whole[0].numel()))
        pieces = zip(*(torch.split(value, rows) if value.dim() else (value,) for value in whole), strict=True)
        for piece in pieces:
            _update_piece_(piece, step, group, generator)


def _update_piece_(
    piece: tuple[torch.Tensor, ...], step: int, group: TorchGroup, generator: torch.Generator
) -> None:
    """One step of AdamW on weight, gradient and the two moments, in place."""
    weight, gradient, mean, square = piece
    beta1, beta2 = group["betas"]
    new_mean = mean.float().lerp(gradient.float(), 1 - beta1)
    new_square = square.float().lerp(gradient.float().square(), 1 - beta2)
    denominator = (new_square / (1 - beta2**step)).sqrt() + group["eps"]
    new_weight = weight.float() * (1 - group["lr"] * group["weight_decay"])
    new_weight -= group["lr"] * (new_mean / (1 - beta1**step)) / denominator
    for old, new in ((mean, new_mean), (square, new_square), (weight, new_weight)):
        old.copy_(round_stochastically(new, generator) if old.dtype == torch.bfloat16 else new)


def round_stochastically(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 as bfloat16: one of the two neighbours, each more probable the nearer it is.

    The lower 16 bits of a float32 are what bfloat16 lacks: a random number of 16 bits, added to them, carries over as
    often as they are large.
    """
    bits = value.view(torch.int32)
    noise = torch.randint(
        0, 1 << 16, value.shape, generator=generator, device=value.device, dtype=torch.int32
    )
    return ((bits + noise) & -65536).view(torch.float32).to(torch.bfloat16)


def _local(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may be sharded -> the part of this rank."""
    return value.to_local() if isinstance(value, DTensor) else value


def build_rounding_adamw(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """AdamW for weights in bfloat16."""
    return RoundingAdamW(groups, seed=material.seed, **material.adam)


OPTIMIZER = build_rounding_adamw
