"""Keys that exclude each other."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.checkpoint import CheckpointSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection
from siredon.config.sections.optimizer import ScheduleSection
from siredon.config.sections.precision import PrecisionSection


def _check_warmup(schedule: ScheduleSection) -> Iterator[Finding]:
    """Warm-up has one length.

    `warmup_steps` counts optimizer steps, `warmup_ratio` is a fraction of the run; they would disagree.
    """
    if schedule.warmup_steps is not None and schedule.warmup_ratio is not None:
        yield Finding(
            "warmup_ratio", "`warmup_steps` and `warmup_ratio` exclude each other", "Keep one of them."
        )


def _check_validation_source(data: DataSection) -> Iterator[Finding]:
    """Validation rows come from one place.

    Either `test_datasets` names them, or `val_set_size` holds some of the training rows out.
    """
    if data.test_datasets and data.val_set_size:
        yield Finding(
            "val_set_size",
            "`test_datasets` and `val_set_size` exclude each other",
            "Set `val_set_size: 0`, or remove `test_datasets`.",
        )


def _check_saving(checkpoint: CheckpointSection) -> Iterator[Finding]:
    """There is one way of saying when to save, and one of saying where to go on.

    `save_steps` and `saves_per_epoch` are numbers of steps; another `save_strategy` contradicts both.
    """
    if checkpoint.save_steps is not None and checkpoint.saves_per_epoch is not None:
        yield Finding(
            "saves_per_epoch", "`save_steps` and `saves_per_epoch` exclude each other", "Keep one of them."
        )
    by_steps = checkpoint.save_steps is not None or checkpoint.saves_per_epoch is not None
    meant = "no" if checkpoint.saves_per_epoch == 0 else "steps"
    if by_steps and checkpoint.save_strategy not in (None, meant):
        name = "save_steps" if checkpoint.save_steps is not None else "saves_per_epoch"
        yield Finding(
            "save_strategy",
            f"`save_strategy: {checkpoint.save_strategy}` contradicts `{name}`",
            f"Remove `save_strategy`, or `{name}`.",
        )
    if checkpoint.resume_from_checkpoint and checkpoint.auto_resume_from_checkpoints:
        yield Finding(
            "auto_resume_from_checkpoints",
            "`resume_from_checkpoint` and `auto_resume_from_checkpoints` exclude each other",
            "Keep one of them.",
        )


def _check_evaluating(evaluation: EvaluationSection) -> Iterator[Finding]:
    """There is one way of saying when to validate.

    `eval_steps` and `evals_per_epoch` are numbers of steps; another `eval_strategy` contradicts both.
    """
    if evaluation.eval_steps is not None and evaluation.evals_per_epoch is not None:
        yield Finding(
            "evals_per_epoch", "`eval_steps` and `evals_per_epoch` exclude each other", "Keep one of them."
        )
    by_steps = evaluation.eval_steps is not None or evaluation.evals_per_epoch is not None
    meant = "no" if evaluation.evals_per_epoch == 0 else "steps"
    if by_steps and evaluation.eval_strategy not in (None, meant):
        yield Finding(
            "eval_strategy",
            f"`eval_strategy: {evaluation.eval_strategy}` contradicts a number of steps",
            "Remove `eval_strategy`, or `eval_steps` and `evals_per_epoch`.",
        )


def _check_precision(precision: PrecisionSection) -> Iterator[Finding]:
    """A run computes in one 16-bit format."""
    if precision.bf16 is True and precision.fp16:
        yield Finding("fp16", "`bf16: true` and `fp16: true` exclude each other", "Set one of them to false.")


RULES = (
    Rule("SD0101", _check_warmup, wrong="warmup_steps: 0\nwarmup_ratio: 0.1", right="warmup_ratio: 0.1"),
    Rule(
        "SD0102",
        _check_validation_source,
        wrong="test_datasets:\n  - path: held_out.jsonl\n    type: alpaca\nval_set_size: 0.1",
        right="test_datasets:\n  - path: held_out.jsonl\n    type: alpaca\nval_set_size: 0",
    ),
    Rule("SD0103", _check_saving, wrong="save_steps: 5\nsaves_per_epoch: 2", right="saves_per_epoch: 2"),
    Rule(
        "SD0104",
        _check_evaluating,
        wrong="val_set_size: 0.1\neval_steps: 5\nevals_per_epoch: 2",
        right="val_set_size: 0.1\nevals_per_epoch: 2",
    ),
    Rule("SD0105", _check_precision, wrong="bf16: true\nfp16: true", right="bf16: auto\nfp16: true"),
)
