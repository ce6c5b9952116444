"""Which checkpoints are written, and which of them is the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from siredon.config.idle import keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.hub import HubSection
from siredon.config.sections.loss import StoppingSection
from siredon.config.sections.optimizer import ScheduleSection


def _check_judge(
    checkpoint: CheckpointSection,
    stopping: StoppingSection,
    schedule: ScheduleSection,
    data: DataSection,
    evaluation: EvaluationSection,
) -> Iterator[Finding]:
    """What is decided by validation comes with validation.

    Early stopping, the best checkpoint and a learning rate that waits for a plateau all look at the validation
    loss.
    """
    if data.has_validation and not evaluation.why_never:
        return
    deciders = (
        ("early_stopping_patience", stopping.early_stopping_patience is not None),
        ("load_best_model_at_end", checkpoint.load_best_model_at_end),
        ("lr_scheduler", schedule.lr_scheduler == "reduce_lr_on_plateau"),
        # Without rows, SD0155 says so
        ("save_strategy", checkpoint.save_strategy == "best" and data.has_validation),
    )
    cause, fix = (
        "there are no validation rows",
        "Add `val_set_size: 0.05` or `test_datasets`, or remove the key.",
    )
    if data.has_validation:
        cause = f"`{evaluation.why_never}` never validates"
        fix = f"Remove `{evaluation.why_never.partition(':')[0]}`, or the key."
    for name, decides in deciders:
        if decides:
            yield Finding(name, f"`{name}` decides by validation, but {cause}", fix)


@dataclass(frozen=True)
class _Interval:
    """Time between two events of one kind, in a unit known from the file."""

    unit: Literal["steps", "epochs"]
    length: float

    def falls_on(self, other: _Interval) -> bool | None:
        """Whether at every event of this kind there is one of the other; None if the file does not tell."""
        if other == _Interval("steps", 1):
            return True
        if self.unit != other.unit:
            return None
        times = self.length / other.length
        return round(times) >= 1 and abs(times - round(times)) < 1e-6


def _find_interval(steps: float | None, per_epoch: int | None, batch: BatchSection) -> _Interval:
    """The interval of a number of steps, of a fraction of the run, or of so many times per epoch."""
    if per_epoch is not None:
        return _Interval("epochs", 1 / per_epoch)
    if steps is None:
        return _Interval("epochs", 1)
    if steps >= 1:
        return _Interval("steps", int(steps))
    if batch.max_steps is not None:
        return _Interval("steps", max(1, round(steps * batch.max_steps)))
    return _Interval("epochs", steps * batch.num_epochs)


def _is_open(checkpoint: CheckpointSection, evaluation: EvaluationSection) -> bool:
    """Whether a strategy of steps does not say how many, which SD0158 reports."""
    saves = (checkpoint.save_steps, checkpoint.saves_per_epoch)
    validations = (evaluation.eval_steps, evaluation.evals_per_epoch)
    strategies = ((checkpoint.save_strategy, saves), (evaluation.eval_strategy, validations))
    return any(strategy == "steps" and not any(numbers) for strategy, numbers in strategies)


def _find_rhythm_key(checkpoint: CheckpointSection, evaluation: EvaluationSection) -> str:
    """The key to change where checkpoints and validations do not match."""
    asked = keys_set(checkpoint, ("save_steps", "saves_per_epoch", "save_strategy"))
    return (asked or keys_set(evaluation, ("eval_steps", "evals_per_epoch", "eval_strategy")))[0]


def _check_rhythm(
    checkpoint: CheckpointSection,
    stopping: StoppingSection,
    evaluation: EvaluationSection,
    data: DataSection,
    batch: BatchSection,
) -> Iterator[Finding]:
    """Where the best model counts, every checkpoint is written at a validation.

    `early_stopping_patience` and `load_best_model_at_end` pick the checkpoint with the best validation; one that
    falls between two validations has none.  `saves_per_epoch` matches an `evals_per_epoch` that is its
    multiple, and `save_steps` is a multiple of `eval_steps`.  Steps and epochs are counted differently: where
    both are used the file alone does not tell, and this is a warning.
    """
    picks = stopping.early_stopping_patience is not None or checkpoint.load_best_model_at_end
    if (
        not picks
        or not data.has_validation
        or evaluation.why_never
        or checkpoint.save_strategy == "best"
        or _is_open(checkpoint, evaluation)
    ):
        return
    chooser = "load_best_model_at_end" if checkpoint.load_best_model_at_end else "early_stopping_patience"
    if checkpoint.strategy == "no":
        name = "saves_per_epoch" if checkpoint.saves_per_epoch == 0 else "save_strategy"
        yield Finding(
            name,
            f"`{chooser}` needs checkpoints, and `{name}` asks for none",
            f"Write `save_strategy: best`, or remove `{name}`.",
        )
        return
    saves = _find_interval(checkpoint.save_steps, checkpoint.saves_per_epoch, batch)
    validations = _find_interval(evaluation.eval_steps, evaluation.evals_per_epoch, batch)
    matches = saves.falls_on(validations)
    if matches is False:
        yield Finding(
            _find_rhythm_key(checkpoint, evaluation),
            f"`{chooser}` needs a validation at every checkpoint; some fall between two validations",
            "Save as often as you validate, or write `save_strategy: best`.",
        )
    elif matches is None:
        yield Finding(
            _find_rhythm_key(checkpoint, evaluation),
            f"`{chooser}` needs a validation at every checkpoint; steps here and epochs there may not meet",
            "Count both in steps or both in epochs, or write `save_strategy: best`.",
            "warning",
        )


def _picks_best(checkpoint: CheckpointSection, stopping: StoppingSection, schedule: ScheduleSection) -> bool:
    return (
        checkpoint.save_strategy == "best"
        or checkpoint.load_best_model_at_end
        or stopping.early_stopping_patience is not None
        or schedule.lr_scheduler == "reduce_lr_on_plateau"
    )


def _check_metric(
    checkpoint: CheckpointSection, stopping: StoppingSection, schedule: ScheduleSection
) -> Iterator[Finding]:
    """A metric is chosen where something is decided by it.

    `metric_for_best_model` and `greater_is_better` are for `save_strategy: best`, `load_best_model_at_end`,
    `early_stopping_patience` and `lr_scheduler: reduce_lr_on_plateau`.
    """
    names = keys_set(checkpoint, ("metric_for_best_model", "greater_is_better"))
    if names and not _picks_best(checkpoint, stopping, schedule):
        yield Finding(
            names[0],
            f"`{names[0]}` has no effect: nothing is decided by it",
            f"Add `save_strategy: best`, or remove `{names[0]}`.",
            "warning",
        )


def _check_direction(
    checkpoint: CheckpointSection, stopping: StoppingSection, schedule: ScheduleSection
) -> Iterator[Finding]:
    """The best loss is the lowest.

    The metric is the validation loss unless `metric_for_best_model` names another; with `greater_is_better: true`
    the worst model would be taken for the best.
    """
    metric = checkpoint.metric_for_best_model or "eval_loss"
    if (
        checkpoint.greater_is_better
        and metric.endswith("loss")
        and _picks_best(checkpoint, stopping, schedule)
    ):
        yield Finding(
            "greater_is_better",
            f"`greater_is_better: true` would take the highest `{metric}` for the best",
            "Remove `greater_is_better`, or name another `metric_for_best_model`.",
        )


def _check_known(
    checkpoint: CheckpointSection,
    stopping: StoppingSection,
    schedule: ScheduleSection,
    evaluation: EvaluationSection,
) -> Iterator[Finding]:
    """The metric that decides is one that is measured.

    That is the validation loss, and the scores of `eval_causal_lm_metrics`.
    """
    metric = checkpoint.metric_for_best_model
    if metric is None or not _picks_best(checkpoint, stopping, schedule):
        return
    scores = evaluation.eval_causal_lm_metrics or () if evaluation.do_causal_lm_eval else ()
    measured = ("loss", *scores)
    if metric.removeprefix("eval_") not in measured:
        known = list_keys([f"eval_{name}" for name in measured])
        yield Finding(
            "metric_for_best_model",
            f"`metric_for_best_model: {metric}` is measured by nothing",
            f"Measured: {known}.",
            value=metric,
        )


def _check_safetensors(checkpoint: CheckpointSection) -> Iterator[Finding]:
    """Weights are written as safetensors.

    Other formats run code when they are read.
    """
    if not checkpoint.save_safetensors:
        yield Finding(
            "save_safetensors",
            "`save_safetensors: false` asks for a format that is not written",
            "Remove `save_safetensors`.",
        )


def _check_upload(checkpoint: CheckpointSection, hub: HubSection) -> Iterator[Finding]:
    """Uploads while training come with checkpoints.

    Checkpoints are what is uploaded; without them only `hub_strategy: end` has something to send.
    """
    if hub.hub_model_id and checkpoint.strategy == "no" and hub.hub_strategy != "end":
        name = "saves_per_epoch" if checkpoint.saves_per_epoch == 0 else "save_strategy"
        asked = "saves_per_epoch: 0" if checkpoint.saves_per_epoch == 0 else "save_strategy: 'no'"
        yield Finding(
            name,
            f"`hub_model_id` uploads checkpoints, and `{asked}` writes none before the end",
            f"Remove `{name}`, or add `hub_strategy: end`.",
            "warning",
        )


def _check_resumable(checkpoint: CheckpointSection) -> Iterator[Finding]:
    """A run that goes on by itself writes checkpoints that it can go on from.

    `save_only_model` leaves out the state of the optimizer and the place in the data.
    """
    if checkpoint.save_only_model and checkpoint.auto_resume_from_checkpoints:
        yield Finding(
            "save_only_model",
            "`save_only_model: true` leaves out what `auto_resume_from_checkpoints` needs",
            "Remove one of them.",
            "warning",
        )


_EARLY = "val_set_size: 0.1\nearly_stopping_patience: 3\n"
_BEST = "val_set_size: 0.1\nsave_strategy: best\n"
_SCORES = "do_causal_lm_eval: true\neval_causal_lm_metrics: [chrf]\n"

RULES = (
    Rule("SD0226", _check_judge, wrong="early_stopping_patience: 3", right=_EARLY),
    Rule(
        "SD0227",
        _check_rhythm,
        wrong=_EARLY + "eval_steps: 100\nsave_steps: 250",
        right=_EARLY + "evals_per_epoch: 4\nsaves_per_epoch: 2",
    ),
    Rule(
        "SD0228",
        _check_metric,
        wrong="val_set_size: 0.1\nmetric_for_best_model: eval_loss",
        right=_BEST + "metric_for_best_model: eval_loss",
    ),
    Rule(
        "SD0229",
        _check_direction,
        wrong=_BEST + "greater_is_better: true",
        right=_BEST + _SCORES + "metric_for_best_model: eval_chrf\ngreater_is_better: true",
    ),
    Rule(
        "SD0269",
        _check_known,
        wrong=_BEST + "metric_for_best_model: eval_accuracy",
        right=_BEST + "metric_for_best_model: eval_loss",
    ),
    Rule("SD0230", _check_safetensors, wrong="save_safetensors: false", right="save_safetensors: true"),
    Rule(
        "SD0231",
        _check_upload,
        wrong="hub_model_id: user/model\nsave_strategy: 'no'",
        right="hub_model_id: user/model\nsave_strategy: epoch",
    ),
    Rule(
        "SD0232",
        _check_resumable,
        wrong="save_only_model: true\nauto_resume_from_checkpoints: true",
        right="save_only_model: false\nauto_resume_from_checkpoints: true",
    ),
)
