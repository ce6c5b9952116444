"""Two runs compared: what they were made of, and how they came out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

Weight = Literal["certain", "possible", "none"]

#: What each weight means, in the order in which differences are shown.
HEADINGS: dict[Weight, str] = {
    "certain": "changes the result",
    "possible": "may change the result, if only in the last bits",
    "none": "does not change the result",
}
#: Beginning of a fact's name -> how much a difference in it matters.  The longest one that fits decides.
_WEIGHTS: dict[str, Weight] = {
    "given": "certain",
    "data": "certain",
    "weights": "certain",
    "num_ranks": "certain",
    "hardware.device": "certain",
    "siredon": "possible",
    "versions": "possible",
    "hardware.name": "possible",
    "hardware.num_threads": "possible",
    "hardware.has_bf16": "possible",
    "code.siredon": "possible",
    "environment": "possible",
    "environment.GOMP_SPINCOUNT": "none",
    "environment.HF_": "none",
    "environment.CUDA_": "none",
    "environment.TOKENIZERS_": "none",
    "code.siredon.commit": "none",
    "code.folder": "none",
    "hardware": "none",
}
#: Keys that say where, when and how far, and not what.
FREE = ("output_dir", "resume_from_checkpoint", "auto_resume_from_checkpoints", "max_time")
#: Metrics of time and memory.
_MEASURED = ("tokens_per_second", "peak_memory", "runtime", "samples_per_second", "steps_per_second")
_ABSENT = "nothing"


@dataclass(frozen=True)
class Difference:
    """A fact that is another one now.

    Args:
        name: The fact, dotted.
        then: What it was.
        now: What it is.
        weight: Whether the result hangs on it.
    """

    name: str
    then: str
    now: str
    weight: Weight


def compare_facts(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What differs between two records, what matters most first.

    Args:
        then: What `run.json` holds.
        now: The same of this machine.
    """
    before, after = _flatten(then), _flatten(now)
    names = [name for name in dict.fromkeys([*before, *after]) if _find_weight(name) is not None]
    found = [
        Difference(name, before.get(name, _ABSENT), after.get(name, _ABSENT), _find_weight(name) or "none")
        for name in names
        if before.get(name) != after.get(name)
    ]
    # The samples as a whole differ wherever their rows or their tokens do
    explained = any(difference.name.startswith("data.") for difference in found if not _is_whole(difference))
    found = [difference for difference in found if not (explained and _is_whole(difference))]
    return sorted(found, key=lambda difference: list(HEADINGS).index(difference.weight))


def show_differences(differences: Iterable[Difference]) -> str:
    """The list for people, under headings."""
    rows = list(differences)
    width = max((len(row.name) for row in rows), default=0)
    lines: list[str] = []
    for weight, heading in HEADINGS.items():
        chosen = [row for row in rows if row.weight == weight]
        if chosen:
            lines += [f"{heading}:", *(f"  {row.name:<{width}}  {row.then} -> {row.now}" for row in chosen)]
    return "\n".join(lines)


def find_first_difference(then: Path, now: Path) -> str:
    """The first metric that came out otherwise, and by how much; empty if none did.

    Args:
        then: `metrics.jsonl` of the run.
        now: That of its repetition.
    """
    for before, after in zip_longest(_read_rows(then), _read_rows(now)):
        if before is None or after is None:
            row = before or after or {}
            return f"only one of them has a line of step {row.get('step')}"
        for name in dict.fromkeys([*before, *after]):
            if json.dumps(before.get(name)) != json.dumps(after.get(name)):  # A NaN is no other NaN
                return f"step {before['step']}: {name} {_show_change(before.get(name), after.get(name))}"
    return ""


def find_other_weights(then: Path, now: Path) -> str:
    """Where two files of weights differ, and by how much.  Imports safetensors.

    Args:
        then: Of the run.
        now: Of its repetition.
    """
    from safetensors import safe_open

    largest, where, count, total = 0.0, "", 0, 0
    with safe_open(then, framework="pt") as old, safe_open(now, framework="pt") as new:
        names = set(old.keys()) | set(new.keys())
        if set(old.keys()) != set(new.keys()):
            return f"{len(names - (set(old.keys()) & set(new.keys())))} tensors are in one of them only"
        for name in sorted(names):
            before, after = old.get_tensor(name).double(), new.get_tensor(name).double()
            if before.shape != after.shape:
                return f"{name} has another shape"
            total += before.numel()
            other = (before != after) & ~(before.isnan() & after.isnan())
            count += int(other.sum())
            change = float((before - after)[other].abs().nan_to_num(math.inf).max()) if other.any() else 0.0
            if change > largest:
                largest, where = change, name
    return f"{count:,} of {total:,} numbers differ, by at most {largest:.3g} ({where})"


def _find_weight(name: str) -> Weight | None:
    """How much a fact matters; None for what is no fact of this kind."""
    if name.startswith("data.counts") or name.removeprefix("given.").partition(".")[0] in FREE:
        return None
    fitting = [start for start in _WEIGHTS if f"{name}.".startswith(f"{start}.") or _is_begun(name, start)]
    return _WEIGHTS[max(fitting, key=len)] if fitting else None


def _is_begun(name: str, start: str) -> bool:
    return start.endswith("_") and name.startswith(start)


def _is_whole(difference: Difference) -> bool:
    return difference.name == "data.fingerprint"


def _flatten(value: Any, name: str = "") -> dict[str, str]:
    """The facts in a value by their dotted names, as texts."""
    if not isinstance(value, dict):
        return {name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= _flatten(item, f"{name}.{key}" if name else str(key))
    return found


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield {name: value for name, value in row.items() if not any(word in name for word in _MEASURED)}


def _show_change(then: Any, now: Any) -> str:
    if isinstance(then, (int, float)) and isinstance(now, (int, float)):
        return f"{then!r} -> {now!r} ({now - then:+.3g})"
    return f"{then!r} -> {now!r}"
