"""Results -> a picture: the loss of each data set, the models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siredon.evaluate.result import ALL, Outcome

_COLOURS = {"base": "#a0aec0", "start": "#a0aec0", "tuned": "#2b6cb0"}


def plot_results(found: Sequence[Outcome], picture: Path) -> None:
    """Draws a bar a model and data set that has a loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = [result for result in found if "loss" in result.measures]
    models = list(dict.fromkeys(result.model for result in results))
    places = list(dict.fromkeys((result.split, result.source) for result in results))
    figure = Figure(
        figsize=(7.2, 1.0 + 0.35 * len(places) * (len(models) + 0.5)), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.7 / len(models)
    for number, model in enumerate(models):
        mine = [result for result in results if result.model == model]
        bars = axes.barh(
            [places.index((result.split, result.source)) + number * height for result in mine],
            [result.measures["loss"] for result in mine],
            height=height * 0.9,
            color=_COLOURS[model],
            label=f"{model} model",
        )
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    middle = height * (len(models) - 1) / 2
    names = [split if source == ALL else f"{split}: {source}" for split, source in places]
    axes.set_yticks([place + middle for place in range(len(places))], names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("loss (nats per target token)" if "perplexity" in found[0].measures else "loss")
    axes.spines[["top", "right"]].set_visible(False)
    if len(models) > 1:
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture)
