"""Results as a table on the terminal, and as files."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siredon import __version__
from siredon.evaluate.figures import show_change, show_figure
from siredon.evaluate.judged import Judgement
from siredon.evaluate.pair_samples import MovedPair, pair_up
from siredon.evaluate.plot import plot_results
from siredon.evaluate.result import ALL, Outcome
from siredon.evaluate.sample_report import lay_out_samples, write_samples
from siredon.evaluate.score import Result
from siredon.log import is_terminal, show
from siredon.train.publish import write_whole

#: Columns where there is no terminal.
_WIDE = 400
#: Columns of a text there, and least and most of them on a terminal, beside figures that take so many.
_TEXT, _LEAST_TEXT, _MOST_TEXT, _FIGURES = 100, 30, 120, 38


def publish_results(results: Sequence[Outcome], folder: Path, output: Path) -> None:
    """Shows the table, and writes results.json, results.csv and results.png, and the summary that Axolotl writes.

    Args:
        results: What was measured.
        folder: Where the files go.
        output: `output_dir`, where `eval_summary.csv` goes, unless results go elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [result.record for result in results]
    text = json.dumps({"siredon": __version__, "results": records}, indent=2, ensure_ascii=False)
    write_whole(folder / "results.json", text + "\n")
    write_whole(folder / "results.csv", write_csv(records))
    plot_results(results, folder / "results.png")
    place = output if folder.parent == output else folder
    write_whole(place / "eval_summary.csv", summarize(results))
    judgements = [result for result in results if isinstance(result, Judgement)]
    moved = find_moved(judgements)
    write_samples(moved, folder)
    show_results([result for result in results if isinstance(result, Result)])
    show_judgements(judgements)
    show_samples(moved)
    show(f"results: {folder}")


def write_csv(records: Sequence[dict[str, Any]]) -> str:
    """All results, a line each."""
    names = list(dict.fromkeys(name for record in records for name in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def summarize(results: Sequence[Outcome]) -> str:
    """`metric,training,validation`, as Axolotl writes it; of two models, those of the tuned one."""
    last = results[-1].model
    found: dict[str, dict[str, float]] = {}
    for result in results:
        if result.model == last and result.source == ALL:
            for name, value in result.measures.items():
                found.setdefault(name, {})[result.split] = value
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["metric", "training", "validation"])
    for name, values in found.items():
        writer.writerow([name, values.get("training", ""), values.get("validation", "")])
    return stream.getvalue()


def show_results(results: Sequence[Result]) -> None:
    """A table: a line a model, split and data set; what is the same in all of them is left out."""
    if not results:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for result in results for name in result.scores))
    has_models = len({result.model for result in results}) > 1
    has_sources = any(result.source != ALL for result in results)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, shown in (("model", has_models), ("rows of", True), ("data set", has_sources)):
        if shown:
            table.add_column(name, no_wrap=True)
    for name in ("rows", "target tokens", "loss", "perplexity", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        first = [result.model] * has_models + [result.split] + [result.source] * has_sources
        figures = [show_figure(result.scores[name]) if name in result.scores else "" for name in names]
        table.add_row(
            *first,
            f"{result.num_rows:,}",
            f"{result.loss.num_targets:,}",
            f"{result.loss.mean:.4f}",
            show_figure(result.loss.perplexity),
            *figures,
        )
    print_table(table, Console)


def show_judgements(results: Sequence[Judgement]) -> None:
    """A table for each split and data set: a line a measure, a column a model, and how far two of them are apart."""
    from rich.console import Console

    titles = dict.fromkeys(_name_place(result) for result in results)
    # One below the other, their columns are in line
    width = max(
        (len(name) for name in (*titles, *(name for one in results for name in one.measures))), default=0
    )
    for number, title in enumerate(titles):
        if number:
            show()
        models = [result for result in results if _name_place(result) == title]
        print_table(_lay_out(title, models, width), Console)


def find_moved(results: Sequence[Judgement]) -> list[MovedPair]:
    """The pairs that were written down of each split, before and after the training."""
    found: list[MovedPair] = []
    splits = dict.fromkeys(result.split for result in results if result.samples)
    for split in splits:
        start, tuned = (result.samples for result in results if result.split == split and result.samples)
        found += pair_up(start, tuned)
    return found


def show_samples(moved: Sequence[MovedPair]) -> None:
    """Tables of the pairs whose margin moved most."""
    if not moved:
        return
    from rich.console import Console

    terminal = is_terminal(sys.stdout)
    room = max(_LEAST_TEXT, min(_MOST_TEXT, Console().width - _FIGURES)) if terminal else _TEXT
    for table in lay_out_samples(moved, room):
        show()
        print_table(table, Console)


def _name_place(result: Judgement) -> str:
    source = "" if result.source == ALL else f", {result.source}"
    return f"{result.split}{source}: {result.num_rows:,} {result.unit}"


def _lay_out(title: str, models: Sequence[Judgement], width: int) -> Any:
    """The table of one place; what does not differ between two models has no difference."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(title, no_wrap=True, min_width=width)
    for model in models:
        table.add_column(model.model, justify="right", no_wrap=True, min_width=8)
    if len(models) > 1:
        table.add_column("difference", justify="right", no_wrap=True)
    for name in dict.fromkeys(name for model in models for name in model.measures):
        found = [model.measures[name] for model in models if name in model.measures]
        figures = [show_figure(model.measures[name]) if name in model.measures else "" for model in models]
        change = found[-1] - found[0]
        table.add_row(name, *figures, *([show_change(change)] if len(models) > 1 else ()))
    return table


def print_table(table: Any, console: Any) -> None:
    """Writes a table to stdout: as wide as the terminal, or wide enough for a file."""
    width = None if is_terminal(sys.stdout) else _WIDE
    console(width=width, highlight=False, markup=False).print(table)
