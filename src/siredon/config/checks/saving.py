"""Which checkpoints are written, and which of them is the best."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.checkpoint import FALLING, CheckpointSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.hub import HubSection
from siredon.config.sections.loss import StoppingSection
from siredon.config.sections.optimizer import ScheduleSection
from siredon.config.sections.preference import PreferenceSection


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


def _check_kept(
    checkpoint: CheckpointSection,
    stopping: StoppingSection,
    evaluation: EvaluationSection,
    data: DataSection,
) -> Iterator[Finding]:
    """Where the best model counts, checkpoints are written.

    `early_stopping_patience` and `load_best_model_at_end` end with the best checkpoint.  One is written at every
    validation that is better than all before, so `save_steps` and `eval_steps` need not match.
    """
    picks = stopping.early_stopping_patience is not None or checkpoint.load_best_model_at_end
    if not picks or not data.has_validation or evaluation.why_never or checkpoint.strategy != "no":
        return
    chooser = "load_best_model_at_end" if checkpoint.load_best_model_at_end else "early_stopping_patience"
    name = "saves_per_epoch" if checkpoint.saves_per_epoch == 0 else "save_strategy"
    yield Finding(
        name,
        f"`{chooser}` needs checkpoints, and `{name}` asks for none",
        f"Write `save_strategy: best`, or remove `{name}`.",
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

    The metric is the validation loss unless `metric_for_best_model` names another, such as the perplexity, which is
    its exponential; with `greater_is_better: true` the worst model would be taken for the best.
    """
    metric = checkpoint.best_metric
    if (
        checkpoint.greater_is_better
        and metric.endswith(FALLING)
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
    preference: PreferenceSection,
) -> Iterator[Finding]:
    """The metric that decides is one that is measured.

    That is the validation loss, its perplexity or what is measured of pairs, and the scores of
    `eval_causal_lm_metrics`.
    """
    metric = checkpoint.metric_for_best_model
    if metric is None or not _picks_best(checkpoint, stopping, schedule):
        return
    scores = evaluation.answer_metrics if evaluation.do_causal_lm_eval else ()
    measured = tuple(dict.fromkeys((*preference.measured, *scores)))
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
        _check_kept,
        wrong=_EARLY + "save_strategy: 'no'",
        right=_EARLY + "save_strategy: best",
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
