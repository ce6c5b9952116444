"""`SiredonTrainer` over answers in steps: at the end of each, whether it is right, by `process_reward_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from siredon.config.sections.preference import STEP_MEASURES
from siredon.data.steps import RIGHT, WRONG
from siredon.data.types import IGNORE, Batch
from siredon.train.process_reward_loss import process_reward_loss
from siredon.train.trainer import SiredonTrainer


class StepTrainer(SiredonTrainer):
    """Learns whether steps are right; the loss of a step of training is a mean over the labelled steps of answers.

    Args:
        options: What `SiredonTrainer` takes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sums["steps"] = self._zeros(4)

    def sum_losses(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The cross-entropy summed over labelled steps."""
        with self._noise_on(inputs):
            logits = self.run_model(model, inputs)
        self._sums["steps"] += _count(logits.detach(), inputs["labels"]).flatten(0, -2).sum(0)
        return process_reward_loss(logits, inputs["labels"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss what was measured of the steps since the last one."""
        if "loss" in logs:
            logs |= _name(self.take_sums_("steps").tolist())
        super().log(logs, start_time)

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Of each pack, [packs, 5]: loss, and what `_count` counts."""
        logits, labels = self.run_model(model, inputs), inputs["labels"]
        wanted = labels.clamp(min=0)[..., None]
        losses = -logits.float().log_softmax(-1).gather(-1, wanted)[..., 0] * (labels != IGNORE)
        each = torch.cat([losses.double()[..., None], _count(logits, labels)], dim=-1)
        num_tokens = inputs["num_tokens"]
        if len(each) == len(num_tokens):
            return each.sum(1)
        places = torch.arange(each.shape[1], device=each.device)
        # Padding at the end goes with the last: nothing of it is learned
        pack = torch.searchsorted(num_tokens.cumsum(0), places, right=True).clamp(max=len(num_tokens) - 1)
        return each.new_zeros(len(num_tokens), each.shape[-1]).index_add_(0, pack, each[0])

    def name_measures(self, sums: Sequence[float]) -> dict[str, float]:
        """Those sums over the whole validation set -> its loss, and `STEP_MEASURES`."""
        steps = sums[1] + sums[2]
        return {"loss": sums[0] / max(1.0, steps), **_name(sums[1:])}

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Loss and labelled steps of each pack."""
        rows = self.measure_packs(model, inputs)
        return rows[:, 0], rows[:, 1] + rows[:, 2]


def _count(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each token, [B, T, 4], fp64: is it a right step, a wrong one; is it one that was found to be so."""
    found = logits.argmax(-1)
    return torch.stack(
        [
            (labels == RIGHT).double(),
            (labels == WRONG).double(),
            ((labels == RIGHT) & (found == RIGHT)).double(),
            ((labels == WRONG) & (found == WRONG)).double(),
        ],
        dim=-1,
    )


def _name(sums: Sequence[float]) -> dict[str, float]:
    """Those counts, summed -> the share of steps that are judged as they should be: of all, right and wrong ones.

    A kind of step that there is none of has no number.
    """
    right, wrong, right_found, wrong_found = sums
    parts = ((right_found + wrong_found, right + wrong), (right_found, right), (wrong_found, wrong))
    return {name: found / total for name, (found, total) in zip(STEP_MEASURES, parts, strict=True) if total}
