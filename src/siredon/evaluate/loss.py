"""Rows -> their loss, by the validation of training itself, with the sums of each data set kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.data.types import Batch
from siredon.errors import TrainingError
from siredon.evaluate.candidates import Candidate
from siredon.evaluate.rows import Rows
from siredon.hardware import Hardware, is_out_of_memory
from siredon.model.load import takes_logits_to_keep
from siredon.model.quantized import taken_for_whole
from siredon.train.arguments import Schedule, build_arguments
from siredon.train.isolation import check_isolation
from siredon.train.losses import sum_by_source
from siredon.train.trainer import SiredonTrainer

#: The exponential of more than this is no number.
_MOST_FOR_EXP = 700.0


@dataclass(frozen=True)
class Loss:
    """The loss of target tokens.

    Args:
        mean: Nats per target token.
        num_targets: How many there are.
    """

    mean: float
    num_targets: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.mean, _MOST_FOR_EXP))


@dataclass(frozen=True)
class Losses:
    """The loss of a split, to the bit what training says at a validation, and that of each of its data sets."""

    whole: Loss
    by_source: tuple[Loss, ...]


class Judge(SiredonTrainer):
    """Validates, and keeps the sums of each data set.

    Args:
        num_sources: How many data sets there are.
        options: What `SiredonTrainer` takes.
    """

    def __init__(self, *, num_sources: int, **options: Any) -> None:
        super().__init__(**options)
        #: Summed losses and number of targets, by data set, fp64.
        self.sums = torch.zeros(2, num_sources, dtype=torch.float64, device=self.args.device)

    def _predict(
        self, model: torch.nn.Module, inputs: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, targets, places = super()._predict(model, inputs)
        # No target is the first token of its document: it is of the data set of the token that predicts it.
        sources = inputs["sources"][:, places]
        self.sums += sum_by_source(logits, targets, sources, self.sums.shape[1])
        return logits, targets, places


def measure_losses(candidate: Candidate, rows: Rows, config: Config, hardware: Hardware) -> Losses:
    """The loss of a split, and of each data set in it.

    Neither the batch size nor packing changes it, but for the rounding of sums: each token counts once, and packed
    rows do not see each other.

    Raises:
        ModelError: Rows are packed, and the model lets them see each other.
        TrainingError: Memory has run out.
    """
    judge = build_judge(candidate, rows, config, hardware)
    with explained_memory(config):
        if config.shares_sequences:
            check_isolation(judge, config.attention.attn_implementation)
        metrics = judge.evaluation_loop(judge.get_eval_dataloader(), rows.split).metrics
    totals, counts = judge.sums.tolist()
    by_source = [Loss(total / max(1, count), int(count)) for total, count in zip(totals, counts, strict=True)]
    return Losses(Loss(metrics["eval_loss"], int(sum(counts))), tuple(by_source))


@contextmanager
def explained_memory(config: Config) -> Iterator[None]:
    """What is said of a validation for which memory does not suffice.

    Raises:
        TrainingError: Memory has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"memory has run out in a batch of {config.batch.eval_size} rows",
            "Set a smaller `eval_batch_size`.",
        ) from error


def build_judge(candidate: Candidate, rows: Rows, config: Config, hardware: Hardware) -> Judge:
    """The trainer that validates, as that of the run does."""
    with taken_for_whole(candidate.model):
        return Judge(
            num_sources=len(rows.sources),
            selects_logits=takes_logits_to_keep(candidate.base),
            **gather_judging(candidate, rows, config, hardware),
        )


def gather_judging(candidate: Candidate, rows: Rows, config: Config, hardware: Hardware) -> dict[str, Any]:
    """What every trainer that validates a model is given, whatever its method."""
    precision = candidate.precision
    return {
        "autocast": torch.bfloat16 if precision.autocast == "bf16" else None,
        "model": candidate.model,
        "args": build_arguments(config, Schedule(1, 1), precision, hardware, resumes=True),
        "eval_dataset": rows.packs,
        "data_collator": rows.collator,
        "processing_class": candidate.tokenizer,
    }
