"""Grokfast: what the gradients of many steps have in common is amplified.

Before each step, with the gradient g of that step, after clipping:

    slow <- alpha * slow + (1 - alpha) * g, and g on the first step
    g    <- g + lamb * slow

Source: Lee et al., "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", 2024,
https://arxiv.org/abs/2405.20233, algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch


class Grokfast(torch.optim.Optimizer):
    """An optimizer around another one, which gets amplified gradients.

    Args:
        inner: The optimizer that steps; its groups are those of this one too.
        alpha: Decay of the running average.
        lamb: Weight with which the average is added.
    """

    def __init__(self, inner: torch.optim.Optimizer, alpha: float, lamb: float) -> None:
        super().__init__(inner.param_groups, {})
        self._inner = inner
        self._alpha = alpha
        self._lamb = lamb
        # By place among all parameters, as a saved state has no other names
        self._slow: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Amplifies the gradients, then steps."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            if index in self._slow:
                self._slow[index].mul_(self._alpha).add_(gradient, alpha=1 - self._alpha)
            else:
                self._slow[index] = gradient.clone()
            gradient.add_(self._slow[index], alpha=self._lamb)
        return self._inner.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The inner state, and the averages."""
        return {"inner": self._inner.state_dict(), "slow": dict(self._slow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self._inner.load_state_dict(state_dict["inner"])
        # Loading replaces the groups of the inner one.
        self.param_groups = self._inner.param_groups
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._slow = {
            index: value.to(parameters[index].device, copy=True)
            for index, value in state_dict["slow"].items()
        }
