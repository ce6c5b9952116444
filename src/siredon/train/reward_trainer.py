"""`SiredonTrainer` over pairs of answers that gives each a score: the loss of `reward_loss`, and what is measured.

A batch is that of `PairTrainer`.  The score of an answer is what the head gives at the last token of its sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from siredon.config.sections.preference import SCORE_MEASURES
from siredon.data.pairs import PAIR
from siredon.data.types import Batch
from siredon.distributed.ranks import rank
from siredon.model.score_head import catch_scores
from siredon.train.reward_loss import reward_loss
from siredon.train.trainer import SiredonTrainer

#: Those of `SCORE_MEASURES` that are means over pairs; the lowest and the highest score come behind them.
_MEANS = SCORE_MEASURES[:-2]


class RewardTrainer(SiredonTrainer):
    """Learns scores from pairs of answers.

    Args:
        head: The layer that gives scores.
        center_coefficient: Weight that keeps them around 0.
        options: What `SiredonTrainer` takes.
    """

    def __init__(self, *, head: torch.nn.Module, center_coefficient: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.head, self.center_coefficient = head, center_coefficient
        self._sums["pairs"] = self._zeros(1 + len(_MEANS))
        # Of each rank: how many pairs, the lowest and the highest score.  A rank writes its own row only, so that
        # the sum over ranks has them all
        self._sums["extremes"] = self._zeros(self.args.world_size, 3)

    def count_items(self, batch: Batch) -> Tensor:
        """Pairs."""
        return batch["num_tokens"].new_full((1,), len(batch["packs"]) // 2)

    def run_model(self, model: torch.nn.Module, inputs: Batch, **options: Any) -> Tensor:
        """The score at each token, [B, T, 1]; the model itself would give one for each row."""
        with catch_scores(self.head) as caught:
            super().run_model(model, inputs, **options)
        (scores,) = caught
        return scores

    def score_samples(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The score of each sample of a batch, [S], fp32, with gradient."""
        samples, num_samples = inputs["samples"].flatten(), len(inputs["packs"])
        scores = self.run_model(model, inputs).flatten().float()
        places = torch.arange(len(samples), device=samples.device)
        last = samples.new_zeros(num_samples + 1).scatter_reduce_(0, samples, places, "amax")
        return scores[last[:num_samples]]

    def score_groups(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The scores of both samples of each pair of a batch, [pairs, 2]."""
        return self.score_samples(model, inputs).view(-1, PAIR)

    def sum_losses(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """The loss summed over pairs."""
        with self._noise_on(inputs):
            scores = self.score_samples(model, inputs)
        losses = self._measure_losses(scores, inputs)
        if len(losses):
            measures = _measure(scores).sum(0)
            self._sums["pairs"] += torch.cat([measures.new_full((1,), len(losses)), measures])
            self._widen_(scores.detach().double(), len(losses))
        # Of a batch without pairs it is 0, and still has a gradient
        return losses.sum() + 0 * scores.sum()

    def _measure_losses(self, scores: Tensor, inputs: Batch) -> Tensor:
        margins = inputs.get("margins")
        return reward_loss(
            scores[0::2],
            scores[1::2],
            margin=None if margins is None else margins[0::2],
            center_coefficient=self.center_coefficient,
        )

    def _widen_(self, scores: Tensor, num_pairs: int) -> None:
        """Takes scores into the lowest and the highest of this rank."""
        own = self._sums["extremes"][rank()]
        is_first = own[0] == 0
        own[1] = torch.where(is_first, scores.min(), torch.minimum(own[1], scores.min()))
        own[2] = torch.where(is_first, scores.max(), torch.maximum(own[2], scores.max()))
        own[0] += num_pairs

    def restore_log_(self, kept: dict[str, Any]) -> None:
        """Goes on from there; extremes of ranks are then those of this one, which alone has them."""
        super().restore_log_(kept)
        rows = self._sums["extremes"]
        there = rows[rows[:, 0] > 0]
        if len(there):
            rows.zero_()
            found = there[:, 0].sum(), there[:, 1].min(), there[:, 2].max()
            rows[rank()] = torch.stack(found)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what is given, and with a training loss what was measured of the pairs since the last one."""
        if "loss" in logs:
            count, *sums = self.take_sums_("pairs").tolist()
            rows = self.take_sums_("extremes")
            rows = rows[rows[:, 0] > 0]
            if count:
                found = [*(total / count for total in sums), rows[:, 1].min().item(), rows[:, 2].max().item()]
                logs |= dict(zip(SCORE_MEASURES, found, strict=True))
        super().log(logs, start_time)

    def measure_packs(self, model: torch.nn.Module, inputs: Batch) -> Tensor:
        """Of each pack, [packs, K]: pairs, loss and `_MEANS`, summed; its lowest and its highest score."""
        scores = self.score_samples(model, inputs)
        losses = self._measure_losses(scores, inputs).double()
        each = torch.cat([torch.ones_like(losses)[:, None], losses[:, None], _measure(scores)], dim=1)
        packs, num_packs = inputs["packs"], len(inputs["num_tokens"])
        sums = each.new_zeros(num_packs, each.shape[1]).index_add_(0, packs[0::2], each)
        low, high = (
            each.new_full((num_packs,), start).scatter_reduce_(0, packs, scores.double(), reduce)
            for start, reduce in ((torch.inf, "amin"), (-torch.inf, "amax"))
        )
        return torch.cat([sums, low[:, None], high[:, None]], dim=1)

    def pool_packs(self, rows: Tensor) -> Tensor:
        """Sums over packs, and the lowest and highest of all, [K]."""
        return torch.cat([rows[:, :-2].sum(0), rows[:, -2].min()[None], rows[:, -1].max()[None]])

    def name_measures(self, sums: Sequence[float]) -> dict[str, float]:
        """Those over the whole validation set -> its loss, and `SCORE_MEASURES`."""
        pairs = max(1.0, sums[0])
        means = [total / pairs for total in sums[2:-2]]
        return {"loss": sums[1] / pairs, **dict(zip(SCORE_MEASURES, [*means, *sums[-2:]], strict=True))}

    def _sum_rows(self, model: torch.nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Loss and pairs of each pack; a document by itself is no pair, and has no loss."""
        if "samples" not in inputs:
            scores = self.run_model(model, inputs)
            return scores[:, 0, 0] * 0, torch.zeros_like(scores[:, 0, 0])
        rows = self.measure_packs(model, inputs)
        return rows[:, 1], rows[:, 0]


def _measure(scores: Tensor) -> Tensor:
    """`_MEANS` of each pair, [P, 5], fp64, without gradient, of scores [2 P]."""
    chosen, rejected = scores.detach().double().view(-1, 2).unbind(1)
    lead = chosen - rejected
    found = (chosen, rejected, (lead > 0).double(), lead, (chosen + rejected) / 2)
    return torch.stack(found, dim=1)
