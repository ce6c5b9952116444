"""metrics.jsonl -> loss.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MARGIN = "rewards/margins"
#: What runs over judged answers measure beside the loss, which is then none of tokens; of steps only the last.
_JUDGED = (_MARGIN, "accuracies")


def plot_losses(metrics: Path, picture: Path) -> bool:
    """Draws training and validation loss over optimizer steps, and under it the margin of rewards where there is one.

    Returns:
        Whether there was anything to draw.
    """
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    if not any("loss" in row for row in rows):
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    is_judged = any(name in row for row in rows for name in _JUDGED)
    panels = {"loss": "loss" if is_judged else "loss (nats per target token)"}
    if any(_MARGIN in row for row in rows):
        panels[_MARGIN] = "margin of rewards"
    figure = Figure(figsize=(7.2, 4.2 if len(panels) == 1 else 6.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        _draw(axes, rows, name)
        axes.set_ylabel(title)
    axes.set_xlabel("optimizer step")
    figure.savefig(picture)
    return True


def _draw(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    training = [(row["step"], row[name]) for row in rows if name in row]
    validation = [(row["step"], row[f"eval_{name}"]) for row in rows if f"eval_{name}" in row]
    if training:
        axes.plot(*zip(*training, strict=True), color="#2b6cb0", linewidth=1.6, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="#c05621", markersize=4, label="validation")
        axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
