"""Updates during the backward pass: as soon as a weight's gradient is there, the weight is updated and the
gradient freed.

Of all gradients there is then no more than one at a time.  The result equals that of a step after the backward
pass, where nothing but the weight's own gradient goes into its update.

Source: Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO), 2023,
https://arxiv.org/abs/2306.09782.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class InBackward(torch.optim.Optimizer):
    """One small optimizer for each parameter, which steps when its gradient is complete.

    `step` does nothing: what it would do is done.  Its groups hold the learning rates, which a schedule changes.

    Args:
        groups: Parameters with `lr` and `weight_decay`.
        build: A group of one parameter -> its optimizer.
    """

    def __init__(
        self, groups: list[dict[str, Any]], build: Callable[[dict[str, Any]], torch.optim.Optimizer]
    ) -> None:
        super().__init__(groups, {})
        self._inner: list[torch.optim.Optimizer] = []
        self._hooks: list[Any] = []
        for group_index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                inner = build({**group, "params": [parameter]})
                self._inner.append(inner)
                self._hooks.append(
                    parameter.register_post_accumulate_grad_hook(self._make_hook(inner, group_index))
                )

    def _make_hook(self, inner: torch.optim.Optimizer, group_index: int) -> Callable[[torch.Tensor], None]:
        def update_(parameter: torch.Tensor) -> None:
            # Looked up anew, as loading a state replaces the groups.
            rate = self.param_groups[group_index]["lr"]
            for group in inner.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            inner.step()
            parameter.grad = None

        return update_

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing: every weight was updated in the backward pass."""

    def remove_hooks(self) -> None:
        """Leaves the parameters as they were: later backward passes update nothing."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """The groups, and the states of all optimizers inside, in the order of parameters."""
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in self.param_groups
        ]
        return {"param_groups": groups, "inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        for inner, saved in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(saved)
