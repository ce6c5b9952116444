"""Damaged configurations and damaged rows, end to end: each run ends well, or with an error that says where and what.

    python -m tests.attacks configs 1000     configurations with keys changed, added, misspelt, lost
    python -m tests.attacks rows 200         one row with one kind of damage among good ones; then all of them in a file

Each attack is a process of its own with the command `siredon train`, on a tiny model on the CPU.  It may train, and it
may be refused; what it may never do is end with a traceback, a signal or the wrong status, hang, or lose a row that
nobody counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.faults import run_in_child, show, write_model_and_rows
from tests.unit.config.test_fuzz import DAMAGES, KNOWN, PIECES, TOP
from tests.unit.data.test_bad_rows import DAMAGES as ROW_DAMAGES
from tests.unit.data.test_bad_rows import damage, find_places
from tests.unit.data.test_formats_golden import CASES

from siredon.config.json_schema import json_schema
from siredon.config.schema import key_homes

#: Longer than any of these runs, of which some compile their model; `max_time` ends those told to go on for ever.
SECONDS = 300
#: Far above what these runs take, far below what the machine has.
MEMORY = 8 * 2**30
#: These say where a run writes, or make it another program.
_SPARED = {"output_dir", "dataset_prepared_path", "max_time", "include", "plugins"}
_LOCATED = re.compile(r"^.+:\d+:\d+: error SD\d{4}: .+", re.MULTILINE)
_BASES: tuple[dict[str, Any], ...] = (
    {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True, "sample_packing": True},
    {"val_set_size": 4, "eval_steps": 1, "save_steps": 1},
    {"adapter": "qlora", "load_in_4bit": True, "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True},
)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        kind: trained | refused by the check | refused by a stage | said to go on | WRONG.
        text: What it said.
    """

    kind: str
    text: str


class Range:
    """A folder with a model and rows, in which runs are attacked.

    Args:
        folder: Where; it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_model_and_rows(folder, 24)

    def describe(self, **more: Any) -> dict[str, Any]:
        """The keys of a run that is well."""
        keys = {
            "base_model": "model",
            "datasets": [{"path": "rows.jsonl", "type": "chat_template"}],
            "sequence_len": 128,
            "micro_batch_size": 2,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "bf16": False,
            "dataset_prepared_path": "prepared",
            "max_time": "20s",
            "output_dir": "out",
        }
        return keys | more

    def attack(self, text: bytes) -> Outcome:
        """Trains with a file in a process of its own, which may take a limited time and memory."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        config = self.folder / "attacked.yml"
        config.write_bytes(text)
        status, said = run_in_child(config, self.folder / "said.log", _hold_back)
        kind = judge(status, said, self.folder / "out")
        return Outcome(kind, f"status {status}\n{said}")


def _hold_back() -> None:
    """In the attacked process: it dies of its time, and asking for all memory there is fails."""
    signal.alarm(SECONDS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))


def judge(status: int, said: str, out: Path) -> str:
    """What became of a run, by its status and its words."""
    if "Traceback" in said or "this is a mistake in siredon" in said:
        return "WRONG: a traceback"
    if status < 0:
        return f"WRONG: {'it hangs' if status == -signal.SIGALRM else signal.Signals(-status).name}"
    if status == 0:
        whole = [*out.glob("*.safetensors")]
        return "trained" if whole or not out.is_dir() else "WRONG: status 0, and no weights"
    if status == 75:
        return "said to go on"
    if status in (1, 2) and _LOCATED.search(said):
        return "refused by the check"
    if status == 1 and re.search(r"^error: .{10,}", said, re.MULTILINE):
        return "refused by a stage"
    return f"WRONG: status {status} without an error"


# Configurations


def draw_value(schema: dict[str, Any], chance: random.Random) -> Any:
    """A value of the kind that a key takes, likely or not."""
    options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    one = chance.choice(options) if options else {}
    if "enum" in one:
        return chance.choice(one["enum"])
    numbers = [0, 1, 2, 3, 5, 8, -1, 64, 10**9]
    kinds: dict[Any, list[Any]] = {
        "boolean": [True, False],
        "integer": numbers,
        "number": [*numbers, 0.5, 0.1, 1e-9, 1e9],
        "array": [[], ["x"], ["q_proj"], [1, 2]],
        "object": [{}, {"x": 1}],
        "string": ["x", "", "auto", "model", "rows.jsonl", "q_proj", "1", "0.5", "linear"],
    }
    return chance.choice(kinds.get(one.get("type"), ["x", 1, None, True]))


def mutate(keys: dict[str, Any], schema: dict[str, Any], chance: random.Random) -> bytes:
    """One to three changes: of kinds that the keys take, or of the text, as it comes."""
    keys = dict(keys)
    names = [name for name in TOP if name not in _SPARED and key_homes()[name].status == "works"]
    if chance.random() < 0.7:
        for _ in range(chance.choice((1, 1, 2, 3))):
            name = chance.choice(names)
            keys[name] = draw_value(schema["properties"].get(name, {}), chance)
        return yaml.safe_dump(keys).encode()
    text = yaml.safe_dump(keys)
    for _ in range(chance.randint(1, 2)):
        name = chance.choice(sorted(KNOWN - _SPARED))
        text = chance.choice(DAMAGES)(text, chance.randrange(10**6), chance.choice(PIECES), name)
    return text.encode("utf-8", "surrogatepass")


def attack_configs(place: Range, count: int, seed: int) -> int:
    """Tries damaged configurations; how many runs went wrong."""
    chance, schema = random.Random(seed), json_schema()
    found: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(count):
        keys = place.describe(**_BASES[number % len(_BASES)])
        text = mutate(keys, schema, chance)
        before = {path.name for path in place.folder.iterdir()}
        outcome = place.attack(text)
        found[outcome.kind] += 1
        if outcome.kind.startswith("WRONG"):
            show(f"== {number}: {outcome.kind}\n{text[-1500:]!r}\n{outcome.text[-2500:]}\n")
        for name in {path.name for path in place.folder.iterdir()} - before - {"prepared", "out"}:
            _remove(place.folder / name)
        _remove(place.folder / "prepared")
    show(f"{count} damaged configurations in {time.monotonic() - began:.0f} s")
    return report(found)


# Rows


def build_files(
    place: Range, chance: random.Random, count: int
) -> list[tuple[str, dict[str, Any], list[Any], int]]:
    """Kinds of damage, over all formats: a name, the entry of the data set, its rows, the place of the bad one."""
    kinds = [
        (case, where, kind)
        for case in CASES
        for where in find_places(case["row"])
        for kind in ROW_DAMAGES
        if kind not in ("deeper list", "half a character", "deep json", "deep list")
    ]
    files = []
    for case, where, kind in chance.sample(kinds, min(count, len(kinds))):
        rows = [case["row"]] * 7
        at = chance.randrange(7)
        rows[at] = damage(case["row"], where, ROW_DAMAGES[kind])
        entry = {"path": "bad.jsonl", "type": case["type"], **case.get("entry", {})}
        files.append((f"{case['type']}: {kind} at {'.'.join(map(str, where))}", entry, rows, at + 1))
    return files


def attack_rows(place: Range, count: int, seed: int) -> int:
    """Tries damaged rows, each in a run that stops at them and in one that drops them; how many runs went wrong."""
    found: Counter[str] = Counter()
    began = time.monotonic()
    for name, entry, rows, at in build_files(place, random.Random(seed), count):
        (place.folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for policy in ("error", "drop"):
            keys = place.describe(datasets=[entry], bad_rows=policy, sequence_len=2048)
            outcome = place.attack(yaml.safe_dump(keys).encode())
            kind = outcome.kind
            if (
                policy == "error"
                and kind.startswith("refused by a stage")
                and f"row {at} " not in outcome.text
            ):
                kind = (
                    "WRONG: the row is not named" if "bad.jsonl" not in outcome.text else "refused as a file"
                )
            if policy == "drop" and kind == "trained" and not _is_counted(outcome.text, len(rows)):
                kind = "WRONG: a row is lost"
            found[f"{policy}: {kind}"] += 1
            if "WRONG" in kind:
                show(f"== {name}: {policy}: {kind}\n{outcome.text[-2000:]}\n")
            _remove(place.folder / "prepared")
    show(f"{count} kinds of damage in {time.monotonic() - began:.0f} s")
    return report(found)


def _is_counted(said: str, num_rows: int) -> bool:
    """Whether as many rows as there are were read, and each that is no sample was counted with its reason."""
    read = re.search(r": ([\d,]+) rows?(?: ->|,) ", said)
    samples = re.search(r"^training: ([\d,]+) samples?", said, re.MULTILINE)
    dropped = re.findall(r"^  ([\d,]+) of [\d,]+ rows? dropped: .+", said, re.MULTILINE)
    if not read or not samples or int(read[1]) != num_rows:
        return False
    return int(samples[1]) + sum(map(int, dropped)) == num_rows


def report(found: Counter[str]) -> int:
    """Shows how often what came about; how many runs went wrong."""
    for kind, number in sorted(found.items()):
        show(f"{number:6}  {kind}")
    return sum(number for kind, number in found.items() if "WRONG" in kind)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def main(words: list[str]) -> int:
    """Makes the attacks that are named."""
    kind, count = words[0], int(words[1]) if len(words) > 1 else 20
    seed = int(words[2]) if len(words) > 2 else 0
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    import bitsandbytes  # noqa: F401  what the runs load is loaded once
    import peft  # noqa: F401
    from transformers import Trainer  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="siredon-attacks-") as folder:
        place = Range(Path(folder))
        return {"configs": attack_configs, "rows": attack_rows}[kind](place, count, seed)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
