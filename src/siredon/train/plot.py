"""metrics.jsonl -> loss.png."""

from __future__ import annotations

import json
from pathlib import Path


def plot_losses(metrics: Path, picture: Path) -> bool:
    """Draws training and validation loss over optimizer steps.

    Returns:
        Whether there was anything to draw.
    """
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    validation = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
    if not training:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*training, strict=True), color="#2b6cb0", linewidth=1.6, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="#c05621", markersize=4, label="validation")
        axes.legend(frameon=False)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per target token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture)
    return True
