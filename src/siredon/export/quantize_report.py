"""`quantize.json`, and the same as a table: what became smaller, and what it cost."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

from siredon.evaluate.figures import show_figure
from siredon.evaluate.report import print_table
from siredon.export.quantize import Written
from siredon.export.quantize_check import Checked
from siredon.export.tensor_files import list_shards
from siredon.log import is_main_process, show

REPORT = "quantize.json"


def write_quantize_report(written: Written, checked: Checked | None) -> None:
    """Writes what a model card tells of the rounding, and shows it.

    Args:
        written: The folder.
        checked: What the check found; None where it was left out.
    """
    before, after = (_count_bytes(folder) for folder in (written.source.folder, written.folder))
    (written.folder / REPORT).write_text(
        json.dumps(describe_quantized(written, checked, before, after), indent=2) + "\n", encoding="utf-8"
    )
    if is_main_process():
        _show_table(checked, before, after)
    share = 100 * written.num_rounded / written.num_weights
    show(f"{written.num_layers} layers rounded, {share:.1f} % of {written.num_weights:,} weights")
    if checked is not None:
        show(f"against the whole model, {checked.samples}, {checked.agreement.describe()}")
    if checked is not None and checked.learned is not None:
        show(f"against the model as `qat` trained it, {checked.learned.describe()}")


def describe_quantized(written: Written, checked: Checked | None, before: int, after: int) -> dict[str, Any]:
    """What is kept of a rounding, as JSON values."""
    chosen = written.chosen
    formats = chosen.options.formats if chosen.method.formats else None
    recipe = chosen.method.recipe
    takes_group = formats is not None or (recipe is not None and recipe.takes_group)
    return {
        "method": chosen.name,
        "described": chosen.method.describe(chosen.options),
        "library": f"{chosen.method.package} {metadata.version(chosen.method.package)}"
        if recipe is None
        else "llm-compressor",
        "asked_by": chosen.origin,
        "weight_dtype": formats[0] if formats else None,
        "activation_dtype": formats[1] if formats else None,
        "weights_per_scale": chosen.options.weights_per_scale if takes_group else None,
        "quantize_embedding": bool(chosen.options.quantize_embedding),
        "rounded_layers": written.num_layers,
        "rounded_weights": written.num_rounded,
        "weights": written.num_weights,
        "bytes_before": before,
        "bytes_after": after,
        "read_back": written.read_back.to_json() if written.read_back else None,
        "checked": checked.to_json() if checked else None,
    }


def _count_bytes(folder: Any) -> int:
    return sum(path.stat().st_size for path in list_shards(folder))


def _show_table(checked: Checked | None, before: int, after: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(
        "weights on disk, MB", f"{before / 1e6:,.1f}", f"{after / 1e6:,.1f}", _change(before, after)
    )
    if checked is not None:
        ours, theirs = checked.before, checked.after
        if ours.loss is not None and theirs.loss is not None:
            row = (ours.loss.mean, theirs.loss.mean)
            table.add_row(
                f"loss, {checked.rows}", *(f"{value:.4f}" for value in row), f"{row[1] - row[0]:+.4f}"
            )
            row = (ours.loss.perplexity, theirs.loss.perplexity)
            table.add_row("perplexity", *map(show_figure, row), _change(*row))
        for name, first, second in (
            ("tokens/s, prompt read", ours.speed.prefill, theirs.speed.prefill),
            ("tokens/s, answer written", ours.speed.generation, theirs.speed.generation),
        ):
            table.add_row(name, f"{first:,.1f}", f"{second:,.1f}", _change(first, second))
    print_table(table, Console)


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else ""
