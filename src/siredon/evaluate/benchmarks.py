"""Tasks of lm-evaluation-harness, asked of a model that is loaded already."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from siredon import __version__
from siredon.config.schema import Config
from siredon.errors import DataError
from siredon.evaluate.candidates import Candidate, load_candidates
from siredon.evaluate.report import print_table, write_csv
from siredon.evaluate.tasks import Groups, group_tasks, load_task_list
from siredon.evaluate.wanted import Benchmark
from siredon.hardware import Hardware
from siredon.log import note, show
from siredon.train.publish import write_whole

#: What lm-eval raises where a task cannot be loaded: its data set is not to be had, or needs a package.
_TASK_ERRORS = (OSError, ValueError, KeyError, ImportError)


@dataclass(frozen=True)
class Mark:
    """One figure of a task.

    Args:
        model: Of which model.
        task: Name of the task.
        num_fewshot: Examples before each question.
        metric: Name of the figure.
        filter: What was cut out of the answer first; `none` for nothing.
        value: The figure.
        stderr: Its standard error, None where lm-eval gives none.
        num_questions: Questions asked; 0 for a group of tasks.
        higher_is_better: Whether more is better, None where lm-eval does not say.
    """

    model: str
    task: str
    num_fewshot: int | None
    metric: str
    filter: str
    value: float
    stderr: float | None
    num_questions: int
    higher_is_better: bool | None


def run_benchmarks(config: Config, wanted: Benchmark, hardware: Hardware, folder: Path) -> list[Mark]:
    """Asks each model each task; every answer is written to a file of its own in the folder.

    Raises:
        DataError: lm-eval is not installed, or a task cannot be had.
        CheckpointError: No such model.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError("benchmarks need the package `lm_eval`", "pip install 'siredon[lm-eval]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # It warns of every default
    section = config.lm_eval
    groups = group_tasks(wanted.tasks or section.lm_eval_tasks)
    known = load_task_list([name for names in groups.values() for name in names], wanted.include)
    folder.mkdir(parents=True, exist_ok=True)
    marks: list[Mark] = []
    for candidate in load_candidates(config, wanted.which, hardware, section.lm_eval_model):
        with candidate.as_named():
            for count, found in _ask(candidate, (groups, known), wanted, section.lm_eval_batch_size):
                marks += read_marks(candidate.name, count, found)
                _write_answers(candidate.name, count, found, folder)
        del candidate
    return marks


def _ask(
    candidate: Candidate, tasks: tuple[Groups, Any], wanted: Benchmark, batch_size: int
) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """What lm-eval finds, for each number of examples."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    groups, known = tasks
    model = HFLM(
        pretrained=_AsHeld(candidate.model),
        tokenizer=candidate.tokenizer,
        batch_size=batch_size,
        mixed_precision_dtype=_FORMATS.get(candidate.precision.autocast or ""),
    )
    for count, names in groups.items():
        note(f"{candidate.name} model: {', '.join(names)}" + ("" if count is None else f", {count}-shot"))
        try:
            found = simple_evaluate(
                model=model,
                tasks=names,
                num_fewshot=count,
                limit=wanted.limit,
                apply_chat_template=wanted.chats,
                task_manager=known,
            )
        except _TASK_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"lm-eval cannot run {', '.join(names)}: {type(error).__name__}: {reason}",
                "Check the task, and that its data set can be had from here.",
            ) from error
        assert found is not None, "None is for ranks behind the first"
        yield count, found


class _AsHeld:
    """The model as lm-eval uses it, and no more: it would tie the weights of a module anew.

    That breaks an adapter with trained copies of tied embeddings.

    Args:
        model: A model of transformers, or PEFT's wrapper around one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config
        self.device = model.device
        self.dtype = model.dtype
        self.name_or_path = model.config.name_or_path

    def __call__(self, ids: torch.Tensor, **options: Any) -> Any:
        """What the model gives for ids of shape [B, T]."""
        return self._model(ids, **options)

    def generate(self, **options: Any) -> Any:
        """What the model writes."""
        return self._model.generate(**options)


_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def read_marks(model: str, count: int | None, found: dict[str, Any]) -> Iterator[Mark]:
    """The figures of each task and group, in the order of lm-eval."""
    for task, figures in found["results"].items():
        for key, value in figures.items():
            metric, mark, kind = key.partition(",")
            if not mark or metric.endswith("_stderr") or isinstance(value, str):
                continue
            stderr = figures.get(f"{metric}_stderr,{kind}")
            yield Mark(
                model,
                task,
                found["n-shot"].get(task, count),
                metric,
                kind,
                float(value),
                None if stderr is None or isinstance(stderr, str) else float(stderr),
                found["n-samples"].get(task, {}).get("effective", 0),
                found["higher_is_better"].get(task, {}).get(metric),
            )


def _write_answers(model: str, count: int | None, found: dict[str, Any], folder: Path) -> None:
    """Every question with what the model said to it, a file a task."""
    for task, samples in found.get("samples", {}).items():
        name = f"answers_{model}_{task}" + ("" if count is None else f"_{count}shot")
        lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
        write_whole(folder / f"{name.replace('/', '_')}.jsonl", "".join(lines))


def publish_marks(marks: list[Mark], folder: Path) -> None:
    """Shows the table, and writes results.json and results.csv."""
    from importlib import metadata

    versions = {"siredon": __version__, "lm_eval": metadata.version("lm_eval")}
    records = [asdict(mark) for mark in marks]
    text = json.dumps({**versions, "results": records}, indent=2, ensure_ascii=False)
    write_whole(folder / "results.json", text + "\n")
    write_whole(folder / "results.csv", write_csv(records))
    show_marks(marks)
    show(f"results: {folder}")


def show_marks(marks: list[Mark]) -> None:
    """A table: a line a figure, a column a model, and what the tuned one has more than its base."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    models = list(dict.fromkeys(mark.model for mark in marks))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("n-shot", justify="right")
    table.add_column("questions", justify="right")
    table.add_column("metric", no_wrap=True)
    for name in (*models, *(["difference"] if len(models) > 1 else [])):
        table.add_column(name, justify="right", no_wrap=True)
    lines: dict[tuple[str, int | None, str, str], list[Mark]] = {}
    for mark in marks:
        lines.setdefault((mark.task, mark.num_fewshot, mark.metric, mark.filter), []).append(mark)
    for (task, count, metric, kind), same in lines.items():
        difference = [f"{same[-1].value - same[0].value:+.4f}"] if len(models) > 1 else []
        questions = f"{same[0].num_questions:,}" if same[0].num_questions else ""
        shown = metric if kind == "none" else f"{metric} ({kind})"
        arrow = {True: " ↑", False: " ↓", None: ""}[same[0].higher_is_better]
        figures = [_show_mark(mark) for mark in same]
        table.add_row(
            task, "" if count is None else str(count), questions, shown + arrow, *figures, *difference
        )
    print_table(table, Console)


def _show_mark(mark: Mark) -> str:
    return f"{mark.value:.4f}" + ("" if mark.stderr is None else f" ± {mark.stderr:.4f}")
