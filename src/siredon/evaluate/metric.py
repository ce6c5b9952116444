"""What a metric is: one of the shelf `metrics/`, or a function of the user's by its dotted path."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from siredon.config.functions import find_function
from siredon.config.sections.evaluation import EvaluationSection
from siredon.data.custom import search_here
from siredon.errors import DataError
from siredon.registry import Shelf
from siredon.train.scores import Score

METRICS = Shelf("siredon.evaluate.metrics", "METRIC", "--metric")
_WANTED = "Write a function `(predictions, references)` of two lists of text that returns a number, or a dict of them."


@dataclass(frozen=True)
class Metric:
    """A part of the shelf `metrics`.

    Args:
        score: Answers and references, in order, at least one -> numbers by name.
        requires: The module that it needs, of the extra `evaluate`; empty for none.
    """

    score: Score
    requires: str = ""


def load_scores(section: EvaluationSection) -> tuple[Score, ...]:
    """What judges the model's answers while it is trained; the perplexity is measured anyway.

    Raises:
        DataError: A package is missing.
    """
    if not section.do_causal_lm_eval:
        return ()
    return tuple(load_metric(name) for name in section.answer_metrics if name != "perplexity")


def load_metric(name: str) -> Score:
    """The function of a metric.

    Args:
        name: A part of the shelf, or the dotted path of a function.

    Raises:
        UnknownPartError: There is no such metric.
        DataError: There is no such function, or a package is missing.
    """
    if "." in name:
        return _load_function(name)
    if name == "comet":
        raise DataError(
            "`comet` needs a model of its own from the hub, and is not built",
            "Use `chrf`, or a function of yours by its dotted path.",
        )
    metric = METRICS.load(name)
    assert isinstance(metric, Metric)
    if metric.requires and importlib.util.find_spec(metric.requires) is None:
        raise DataError(
            f"the metric `{name}` needs the package `{metric.requires}`", "pip install 'siredon[evaluate]'"
        )
    return metric.score


def _load_function(path: str) -> Score:
    found = find_function(path, ("score",))
    if found.problem:
        raise DataError(f"the metric `{path}`: {found.problem}", f"{found.fix} {_WANTED}")
    with search_here():
        try:
            function = vars(importlib.import_module(found.module)).get(found.function)
        except Exception as error:  # Whatever the user's module raises
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"the metric `{path}`: {found.module} cannot be imported: {reason}",
                "Mend the module, or install what it needs.",
            ) from error
    if not callable(function):
        raise DataError(f"the metric `{path}`: `{found.function}` is no function", _WANTED)

    def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        try:
            result = function(list(predictions), list(references))
        except Exception as error:  # Whatever the user's function raises
            raise DataError(
                f"the metric `{path}` raised {type(error).__name__}: {error}", "Correct the function."
            ) from error
        return _read_result(path, found.function, result)

    return score


def _read_result(path: str, name: str, result: Any) -> dict[str, float]:
    named = dict(result) if isinstance(result, Mapping) else {name: result}
    for key, value in named.items():
        # Numbers of numpy and PyTorch know `item`, but only the first are numbers to Python
        if not isinstance(value, Real) or not isinstance(key, str) or not math.isfinite(value):
            raise DataError(f"the metric `{path}` returned {key!r}: {value!r}, which is no number", _WANTED)
    return {key: float(value) for key, value in named.items()}
