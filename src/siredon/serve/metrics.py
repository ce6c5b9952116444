"""What a server has done, counted, in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

#: Upper ends of the classes of a histogram, in seconds.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_COUNTERS = {
    "siredon_requests_total": "Requests that were answered, by route and HTTP status.",
    "siredon_failed_answers_total": "Answers that ended early, by reason.",
    "siredon_prompt_tokens_total": "Tokens of prompts.",
    "siredon_generated_tokens_total": "Tokens of answers.",
}
_HISTOGRAMS = {
    "siredon_request_seconds": "Time from a request to the end of its answer.",
    "siredon_first_token_seconds": "Time from a request to the first words of its answer.",
}
_GAUGES = {
    "siredon_requests_waiting": "Requests that wait for the model.",
    "siredon_requests_running": "Requests that the model answers just now.",
}


@dataclass
class _Histogram:
    counts: Counter[float] = field(default_factory=Counter)
    total: float = 0.0
    number: int = 0


class Metrics:
    """Counters and times; every method may be called by any thread.

    Args:
        gauges: Name of a gauge -> what it reads just now.
    """

    def __init__(self, gauges: Mapping[str, Callable[[], int]]) -> None:
        self._gauges = gauges
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[tuple[tuple[str, str], ...]]] = {
            name: Counter() for name in _COUNTERS
        }
        self._times = {name: _Histogram() for name in _HISTOGRAMS}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counts[name][tuple(labels.items())] += amount

    def time(self, name: str, seconds: float) -> None:
        """Adds a time to a histogram."""
        with self._lock:
            found = self._times[name]
            found.total += seconds
            found.number += 1
            for end in SECONDS:
                found.counts[end] += int(seconds <= end)

    def render(self) -> str:
        """All of it as text."""
        with self._lock:
            return "\n".join([*self._counter_lines(), *self._histogram_lines(), *self._gauge_lines(), ""])

    def _counter_lines(self) -> Iterator[str]:
        for name, text in _COUNTERS.items():
            yield from _head(name, text, "counter")
            for labels, amount in sorted(self._counts[name].items()) or [((), 0)]:
                yield f"{name}{_labels(labels)} {amount}"

    def _histogram_lines(self) -> Iterator[str]:
        for name, text in _HISTOGRAMS.items():
            found = self._times[name]
            yield from _head(name, text, "histogram")
            for end in SECONDS:
                yield f'{name}_bucket{{le="{end}"}} {found.counts[end]}'
            yield f'{name}_bucket{{le="+Inf"}} {found.number}'
            yield f"{name}_sum {found.total:.6f}"
            yield f"{name}_count {found.number}"

    def _gauge_lines(self) -> Iterator[str]:
        for name, text in _GAUGES.items():
            yield from _head(name, text, "gauge")
            yield f"{name} {self._gauges[name]()}"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inner = ",".join(f'{name}="{escape(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""
