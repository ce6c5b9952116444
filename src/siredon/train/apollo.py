"""APOLLO: AdamW's scaling of each channel, learned from a random low-rank picture of the gradient.

Source: Zhu et al., "APOLLO: SGD-like Memory, AdamW-level Performance", 2024, https://arxiv.org/abs/2412.05270.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from siredon.train.optimize import Material, TorchGroup

#: An update's norm grows at most by this factor from one step to the next.
_GROWTH = 1.01
_SMALLEST_NORM = 1e-8


class Apollo(torch.optim.Optimizer):
    """APOLLO for the chosen matrices, AdamW for the rest.

    For G [m, n] with m <= n, and P [r, m] of random normal numbers with variance 1 / r: AdamW's direction A of P G;
    each column of G is scaled by |A_j| / |P G_j|, or all of G by |A| / |P G|; the norm of the result may grow by one
    per cent a step.  A tall matrix is taken by rows.  P follows from the seed, and is drawn anew every
    `update_proj_gap` steps.

    Args:
        groups: Parameters with `lr` and `weight_decay`.
        material: Settings of AdamW, the matrices, and `optim_args`.
    """

    def __init__(self, groups: list[TorchGroup], material: Material) -> None:
        options = {
            "rank": 128,
            "update_proj_gap": 200,
            "scale": 1.0,
            "scale_type": "channel",
            "proj_type": "std",
            "seed": material.seed,
            **material.arguments,
        }
        for name, words in (("scale_type", ("channel", "tensor")), ("proj_type", ("std", "reverse_std"))):
            if options[name] not in words:
                raise ValueError(f"{name} is `{words[0]}` or `{words[1]}`, not {options[name]!r}")
        super().__init__(groups, {**material.adam, **options})
        self._targets = material.targets

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                index += 1
                if parameter.grad is not None:
                    self._update_(parameter, parameter.grad.float(), index, group)

    def _update_(
        self, parameter: torch.Tensor, gradient: torch.Tensor, index: int, group: TorchGroup
    ) -> None:
        state = self.state[parameter]
        step = int(state.get("step", 0))
        is_projected = id(parameter) in self._targets
        # The side that is projected is the last one.
        is_wide = (gradient.ndim == 2) and (gradient.shape[0] < gradient.shape[1])
        turn = is_projected and is_wide == (group["proj_type"] == "std")
        seen = gradient.T if turn else gradient
        small = seen @ self._draw(seen, step, index, group) if is_projected else seen
        direction = _adam_direction_(state, small, parameter.dtype, group)
        update = direction
        if is_projected:
            dim = 1 if group["scale_type"] == "channel" else (0, 1)
            factor = direction.norm(dim=dim, keepdim=True) / (
                small.norm(dim=dim, keepdim=True) + _SMALLEST_NORM
            )
            update = group["scale"] * _limit_growth_(state, seen * factor)
            update = update.T if turn else update
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])

    def _draw(self, seen: torch.Tensor, step: int, index: int, group: TorchGroup) -> torch.Tensor:
        """The projection of this step, [n, r]: nothing of it is kept."""
        rank = min(group["rank"], *seen.shape)
        epoch = step // group["update_proj_gap"]
        generator = torch.Generator(seen.device).manual_seed(
            (group["seed"] * 1_000_003 + index) * 1_000_003 + epoch
        )
        drawn = torch.randn(seen.shape[1], rank, generator=generator, device=seen.device)
        return drawn / math.sqrt(rank)


def _adam_direction_(
    state: dict[str, Any], gradient: torch.Tensor, dtype: torch.dtype, group: TorchGroup
) -> torch.Tensor:
    """Moments updated; the direction of AdamW, without its learning rate."""
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(gradient, dtype=dtype)
        state["exp_avg_sq"] = torch.zeros_like(gradient, dtype=dtype)
    state["step"] += 1
    step = int(state["step"])
    beta1, beta2 = group["betas"]
    mean = state["exp_avg"].float().lerp(gradient, 1 - beta1)
    square = state["exp_avg_sq"].float().lerp(gradient.square(), 1 - beta2)
    state["exp_avg"].copy_(mean)
    state["exp_avg_sq"].copy_(square)
    direction: torch.Tensor = (mean / (1 - beta1**step)) / (
        (square / (1 - beta2**step)).sqrt() + group["eps"]
    )
    return direction


def _limit_growth_(state: dict[str, Any], update: torch.Tensor) -> torch.Tensor:
    norm = float(update.norm())
    last = state.get("norm")
    if last is not None and norm > _GROWTH * last:
        update = update * (_GROWTH * last / norm)
        norm = _GROWTH * last
    state["norm"] = norm
    return update


def build_apollo(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """APOLLO with AdamW beside it."""
    return Apollo(groups, material)
