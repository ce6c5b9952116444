"""When validation runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, list_words, planned, read_no

TextMetric = Literal["sacrebleu", "comet", "ter", "chrf", "perplexity"]
#: One, or a list.
TextMetrics = Annotated[
    tuple[TextMetric, ...],
    BeforeValidator(list_words, json_schema_input_type=TextMetric | tuple[TextMetric, ...]),
]


class EvaluationSection(Section):
    """When the validation loss is measured."""

    eval_strategy: Annotated[Literal["no", "steps", "epoch"], BeforeValidator(read_no)] | None = key(
        "`steps`, `epoch` or `no`; default `epoch`, or `steps` when a number of steps is set.",
        None,
        derived="Config.eval_strategy",
    )
    eval_steps: Float | None = key("Steps between validations, or a fraction of the run below 1.", None, gt=0)
    evals_per_epoch: Int | None = key("Validations per epoch; 0 makes none.", None, ge=0)
    eval_table_size: Int | None = key(
        "Validation rows that the model answers at each validation, into `predictions.jsonl`.", None, ge=0
    )
    eval_max_new_tokens: Int = key("Longest answer, in tokens, there and in `siredon evaluate`.", 128, ge=1)
    do_causal_lm_eval: Bool = key(
        "Let the model answer the validation rows at each validation, and score the answers.", False
    )
    eval_causal_lm_metrics: TextMetrics | None = key(
        "Scores of those answers; default sacrebleu, ter and chrf.", None
    )
    do_bench_eval: Bool | None = planned("Answer multiple-choice questions at each validation.")
    bench_dataset: Str | None = planned("Hub id or file of the multiple-choice questions.")
    bench_split: Str | None = planned("Split of the questions.")

    @property
    def answer_metrics(self) -> tuple[TextMetric, ...]:
        """What the model's answers are scored by, if it answers."""
        return self.eval_causal_lm_metrics or ("sacrebleu", "ter", "chrf")

    @property
    def why_never(self) -> str:
        """What in the file says that there is no validation; empty if nothing does."""
        if self.eval_strategy == "no":
            return "eval_strategy: 'no'"
        return "evals_per_epoch: 0" if self.evals_per_epoch == 0 else ""


class LmEvalSection(Section):
    """Benchmarks of lm-evaluation-harness."""

    lm_eval_tasks: StrList = key("Tasks, each with its number of examples if any: `arc_easy:5`.", ())
    lm_eval_batch_size: Int = key("Questions per batch.", 8, ge=1)
    lm_eval_post_train: Bool = key("Run the tasks when training has ended.", True)
    lm_eval_model: Str | None = key("Model to judge in place of the trained one.", None)


def split_task(task: str) -> tuple[str, int | None]:
    """A task and its number of examples, None where it is not named: `arc_easy` and 5 of `arc_easy:5`."""
    name, mark, count = task.rpartition(":")
    return (name, int(count)) if mark and count.isdecimal() else (task, None)
