"""`PairTrainer` over answers that are good or bad, each by itself: the divergence of a step, its loss and rewards.

A batch holds answers behind their prompts, and beside it stands the batch of the mismatched ones (`data/match.py`).
These are run through once, without gradients, by policy and reference model, before the first forward pass of the step
with gradients: the divergence is one number of the whole step, over all micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from siredon.config.sections.preference import JUDGED_MEASURES
from siredon.data.types import IGNORE, Batch
from siredon.train.kto_loss import AnswerScores, KtoOptions, estimate_kl, kto_loss, sum_drifts
from siredon.train.objective import add_up
from siredon.train.pair_loss import PairOptions
from siredon.train.pair_trainer import PairTrainer

#: What is summed up over the good answers, and over the bad ones.
_SUMMED = ("count", "rewards", "logps", "lengths")
_SIDES = ("chosen", "rejected")


class KtoTrainer(PairTrainer):
    """Learns from judged answers.

    Args:
        judging: Settings of the loss.
        options: What `SiredonTrainer` takes.
    """

    num_items = 1

    def __init__(self, *, judging: KtoOptions, **options: Any) -> None:
        # Of pairs there are none, and so no losses over them
        super().__init__(objective=add_up((), PairOptions(judging.beta)), **options)
        self.judging = judging
        #: The divergence of the step, or of the validation, in hand; no gradient.
        self.kl = torch.zeros((), dtype=torch.float64, device=self.args.device)
        del self._sums["pairs"]
        # Steps and the sum of their divergences, then sums over answers
        self._sums["answers"] = self._zeros(2 + len(_SIDES) * len(_SUMMED))

    @property
    def needs_reference(self) -> bool:
        """Rewards are those over a reference model."""
        return True

    def count_items(self, batch: Batch) -> Tensor:
        """Answers."""
        return batch["labels"].new_full((1,), len(batch["packs"]))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of a step without their mismatched answers, of which the divergence is known now."""
        mismatched: list[Batch] = []

        def take_apart() -> Iterator[dict[str, Any]]:
            for batch in epoch_iterator:
                mismatched.append(batch["mismatched"])
                yield {name: value for name, value in batch.items() if name != "mismatched"}

        found = super().get_batch_samples(take_apart(), num_batches, device)
        if mismatched and not self.passes_over:
            self.kl = self._measure_step(found[0], mismatched)
            self._sums["answers"][:2] += torch.stack([torch.ones_like(self.kl), self.kl])
        return found

    def _measure_step(self, batches: Sequence[Batch], mismatched: Sequence[Batch]) -> Tensor:
        model, sums = self.model, self._zeros(2)
        for batch, others in zip(batches, mismatched, strict=True):
            with self.scoring(batch), self.compute_loss_context_manager():
                inputs: Any = self._prepare_inputs(others)
                sums += sum_drifts(self.score_samples(model, inputs), self._known_reference(inputs))
        return estimate_kl(
            self.accelerator.reduce(sums, reduction="sum") if self.args.world_size > 1 else sums
        )

    def _known_reference(self, inputs: Batch) -> Tensor:
        reference = self._score_reference(inputs)
        assert reference is not None
        return reference

    def sum_losses(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The loss summed over the answers of a batch."""
        scores = self.score_answers_of(model, inputs)
        measures = self._measure_answers(scores, inputs).sum(0)
        self._sums["answers"][2:] += measures
        return kto_loss(scores, self.kl, self.judging).sum()

    def score_answers_of(self, model: torch.nn.Module, inputs: Batch) -> AnswerScores:
        """How likely the policy and the reference model make the answers of a batch."""
        reference = self._known_reference(inputs)
        return AnswerScores(self.score_samples(model, inputs), reference, inputs["desirable"])

    def score_groups(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Log-probabilities of each answer, and of the mismatched one, [G, 2]."""
        return torch.stack(
            [self.score_samples(model, batch) for batch in (inputs, inputs["mismatched"])], dim=1
        )

    def _measure_answers(self, scores: AnswerScores, inputs: Batch) -> Tensor:
        """`_SUMMED` of each answer, as one that is good and as one that is bad, [S, 8], fp64, without gradient."""
        policy = scores.log_probs.detach()
        rewards = self.judging.beta * (policy - scores.reference)
        learned = (inputs["labels"] != IGNORE).flatten()
        lengths = torch.zeros(len(policy) + 1, dtype=torch.float64, device=policy.device)
        lengths.index_add_(0, inputs["samples"].flatten(), learned.double())
        values = [torch.ones_like(policy), rewards, policy, lengths[: len(policy)]]
        each = torch.stack([value.double() for value in values], dim=1)
        good = scores.is_desirable[:, None]
        return torch.cat([each * good, each * ~good], dim=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss what was measured of the answers since the last one."""
        if "loss" in logs:
            steps, kl, *sums = self.take_sums_("answers").tolist()
            if steps:
                logs |= _name(sums, kl / steps)
        super(PairTrainer, self).log(logs, start_time)

    def measure_all(self, model: torch.nn.Module, dataloader: DataLoader[Any]) -> tuple[list[float], int]:
        """The sums over a validation set, once its divergence is known."""
        of_step = self.kl
        drifts, _ = self.sum_packs(model, dataloader, self._measure_drifts)
        self.kl = estimate_kl(torch.tensor(drifts, dtype=torch.float64, device=self.args.device))
        sums, num_packs = super().measure_all(model, dataloader)
        kl, self.kl = float(self.kl), of_step
        return [*sums, kl], num_packs

    def _measure_drifts(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """`sum_drifts` of each pack, [packs, 2]."""
        batch = inputs["mismatched"]
        drifts = self.score_samples(model, batch) - self._known_reference(batch)
        rows = torch.stack([drifts.double(), torch.ones_like(drifts, dtype=torch.float64)], dim=1)
        return rows.new_zeros(len(batch["num_tokens"]), 2).index_add_(0, batch["packs"], rows)

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Of each pack, [packs, 9]: the loss and what is measured of its answers, summed."""
        scores = self.score_answers_of(model, inputs)
        losses = kto_loss(scores, self.kl, self.judging).double()
        rows = torch.cat([losses[:, None], self._measure_answers(scores, inputs)], dim=1)
        sums = rows.new_zeros(len(inputs["num_tokens"]), rows.shape[1])
        return sums.index_add_(0, inputs["packs"], rows)

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """A document by itself is not judged: of it the loss of its tokens is told."""
        if "samples" not in inputs:
            return super()._sum_rows(model, inputs)
        rows = self.measure_packs(model, inputs)
        return rows[:, 0], rows[:, 1] + rows[:, 1 + len(_SUMMED)]

    def name_measures(self, sums: Sequence[float]) -> dict[str, float]:
        """Those sums over a validation set, and its divergence -> loss, rewards and the like."""
        loss, *rest, kl = sums
        count = rest[0] + rest[len(_SUMMED)]
        return {"loss": loss / max(1.0, count), **_name(rest, kl)}


def _name(sums: Sequence[float], kl: float) -> dict[str, float]:
    """`JUDGED_MEASURES` of sums over answers, [8]; what is of no answer is left out."""
    found = {"kl": kl}
    for place, side in enumerate(_SIDES):
        count, *totals = sums[place * len(_SUMMED) :][: len(_SUMMED)]
        found[f"count/{side}"] = count
        if count:
            found |= {
                f"{name}/{side}": total / count for name, total in zip(_SUMMED[1:], totals, strict=True)
            }
    if "rewards/chosen" in found and "rewards/rejected" in found:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return {name: found[name] for name in JUDGED_MEASURES if name in found}
