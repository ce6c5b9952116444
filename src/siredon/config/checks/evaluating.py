"""What is measured at a validation."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection
from siredon.config.sections.evaluation import EvaluationSection, LmEvalSection, split_task
from siredon.config.sections.generation import GenerationSection


def _check_occasion(
    data: DataSection, evaluation: EvaluationSection, generation: GenerationSection
) -> Iterator[Finding]:
    """What is done at each validation comes with validation.

    `do_causal_lm_eval`, `generate_samples` and `eval_table_size` take validation rows; `do_bench_eval` brings its own
    questions and needs only to know when.  Samples alone are a warning, as nothing is measured by them.
    """
    never = evaluation.why_never
    has_rows = data.has_validation and not never
    is_timed = evaluation.eval_steps or evaluation.evals_per_epoch or evaluation.eval_strategy
    asked = (
        ("do_bench_eval", evaluation.do_bench_eval and not has_rows and (never or not is_timed)),
        ("do_causal_lm_eval", evaluation.do_causal_lm_eval and not has_rows),
        ("generate_samples", generation.generate_samples and not has_rows),
        ("eval_table_size", bool(evaluation.eval_table_size) and not has_rows),
    )
    for name, is_lost in asked:
        if is_lost:
            yield Finding(
                name,
                f"`{name}` is done at validations, and this run has none",
                _way_out(name, never, data.has_validation),
                "warning" if name in ("generate_samples", "eval_table_size") else "error",
            )


def _way_out(name: str, never: str, has_rows: bool) -> str:
    if has_rows or never:
        return f"Remove `{never.partition(':')[0]}`, or `{name}`."
    also = ", or say when: `eval_steps: 100`" if name == "do_bench_eval" else ""
    return f"Add `val_set_size: 0.05` or `test_datasets`{also}."


def _check_scores(evaluation: EvaluationSection) -> Iterator[Finding]:
    """Answers are scored by what needs nothing from elsewhere.

    `comet` is a model of its own, which is fetched from a hub.
    """
    if evaluation.do_causal_lm_eval and "comet" in evaluation.answer_metrics:
        yield Finding(
            "eval_causal_lm_metrics",
            "`eval_causal_lm_metrics: comet` needs a model of its own, and is not built",
            "Take it out: sacrebleu, ter, chrf and perplexity are measured.",
        )


def _check_tasks(lm_eval: LmEvalSection) -> Iterator[Finding]:
    """A task is a name of lm-evaluation-harness, with a whole number of examples behind a colon if any.

    Where tasks are run after training, the package is needed before it.
    """
    for place, task in enumerate(lm_eval.lm_eval_tasks):
        name, _ = split_task(task)
        if not name or ":" in name:
            yield Finding(
                f"lm_eval_tasks.{place}",
                f"`{task}` is no task with a number of examples behind it",
                "Write `arc_easy:5`, or `arc_easy` for the number that the task has itself.",
            )
    if lm_eval.lm_eval_tasks and lm_eval.lm_eval_post_train and importlib.util.find_spec("lm_eval") is None:
        yield Finding(
            "lm_eval_tasks",
            "the tasks are run when training has ended, and lm-eval is not installed",
            "pip install 'siredon[lm-eval]', or set `lm_eval_post_train: false`.",
        )


RULES = (
    Rule(
        "SD0233",
        _check_occasion,
        wrong="do_causal_lm_eval: true",
        right="val_set_size: 0.1\ndo_causal_lm_eval: true",
    ),
    Rule(
        "SD0276",
        _check_scores,
        wrong="val_set_size: 0.1\ndo_causal_lm_eval: true\neval_causal_lm_metrics: [comet]",
        right="val_set_size: 0.1\ndo_causal_lm_eval: true\neval_causal_lm_metrics: [chrf]",
    ),
    Rule(
        "SD0830",
        _check_tasks,
        wrong="lm_eval_post_train: false\nlm_eval_tasks: ['arc_easy:five']",
        right="lm_eval_post_train: false\nlm_eval_tasks: ['arc_easy:5']",
    ),
)
