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
from siredon.evaluate.figures import show_figure
from siredon.evaluate.plot import plot_results
from siredon.evaluate.score import ALL, Result
from siredon.log import is_terminal, show
from siredon.train.publish import write_whole

#: Columns where there is no terminal.
_WIDE = 400


def publish_results(results: Sequence[Result], folder: Path, output: Path) -> None:
    """Shows the table, and writes results.json, results.csv and results.png, and the summary that Axolotl writes.

    Args:
        results: What was measured.
        folder: Where the files go.
        output: `output_dir`, where `eval_summary.csv` goes, unless results go elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [describe_result(result) for result in results]
    text = json.dumps({"siredon": __version__, "results": records}, indent=2, ensure_ascii=False)
    write_whole(folder / "results.json", text + "\n")
    write_whole(folder / "results.csv", write_csv(records))
    plot_results(results, folder / "results.png")
    place = output if folder.parent == output else folder
    write_whole(place / "eval_summary.csv", summarize(results))
    show_results(results)
    show(f"results: {folder}")


def describe_result(result: Result) -> dict[str, Any]:
    """One result, as JSON values."""
    return {
        "model": result.model,
        "split": result.split,
        "source": result.source,
        "rows": result.num_rows,
        "target_tokens": result.loss.num_targets,
        "loss": result.loss.mean,
        "perplexity": result.loss.perplexity,
        **({"answers": result.num_answers} if result.num_answers else {}),
        **result.scores,
    }


def write_csv(records: Sequence[dict[str, Any]]) -> str:
    """All results, a line each."""
    names = list(dict.fromkeys(name for record in records for name in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def summarize(results: Sequence[Result]) -> str:
    """`metric,training,validation`, as Axolotl writes it; of two models, those of the tuned one."""
    last = results[-1].model
    found: dict[str, dict[str, float]] = {}
    for result in results:
        if result.model == last and result.source == ALL:
            named = {"loss": result.loss.mean, "perplexity": result.loss.perplexity, **result.scores}
            for name, value in named.items():
                found.setdefault(name, {})[result.split] = value
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["metric", "training", "validation"])
    for name, values in found.items():
        writer.writerow([name, values.get("training", ""), values.get("validation", "")])
    return stream.getvalue()


def show_results(results: Sequence[Result]) -> None:
    """A table: a line a model, split and data set; what is the same in all of them is left out."""
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


def print_table(table: Any, console: Any) -> None:
    """Writes a table to stdout: as wide as the terminal, or wide enough for a file."""
    width = None if is_terminal(sys.stdout) else _WIDE
    console(width=width, highlight=False, markup=False).print(table)
