"""Row 22: prepared data is used again only while everything is the same that made it.

Code and versions of libraries are a part of the key too; changing them takes another installation.

Bugs of record: axolotl#885, #1265, #341, #3303.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siredon.config.load import load_config
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.model.tokenizer import load_tokenizer
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import TALK, list_samples, read_template

Keys = dict[str, Any]


def _change_bytes(folder: Path, keys: Keys) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("42", "43"))


def _set(name: str, value: object) -> Callable[[Path, Keys], None]:
    def change(folder: Path, keys: Keys) -> None:
        keys[name] = value

    return change


def _set_entry(name: str, value: object) -> Callable[[Path, Keys], None]:
    def change(folder: Path, keys: Keys) -> None:
        keys["datasets"] = [{**keys["datasets"][0], name: value}]

    return change


#: What is changed -> how; each gives other samples.
_CHANGES: dict[str, Callable[[Path, Keys], None]] = {
    "bytes of the data": _change_bytes,
    "chat template": _set(
        "chat_template_jinja", read_template("chatml").replace("<|im_end|>\\n", "<|im_end|>")
    ),
    "special tokens": _set("special_tokens", {"additional_special_tokens": ["times"]}),
    "learned roles": _set_entry("roles_to_train", ["user"]),
    "learned prompts": _set_entry("train_on_eos", "all"),
    "sequence_len": _set("sequence_len", 64),
}
#: The same for what must change nothing.
_SAME: dict[str, Callable[[Path, Keys], None]] = {
    "output_dir": _set("output_dir", "elsewhere"),
    "learning_rate": _set("learning_rate", 0.5),
}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """What is changed between two preparations."""
    return tuple(Cell(case=case) for case in (*_CHANGES, *_SAME))


def run(rig: Rig, cell: Cell) -> Finding:
    """Prepares rows, changes one thing, and holds what a second preparation gives against a fresh one."""
    return find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    folder = rig.make_folder("cache")
    (folder / "rows.jsonl").write_text(
        f"{json.dumps({'messages': TALK[:2]})}\n{json.dumps({'messages': TALK})}\n"
    )
    keys: Keys = {
        "base_model": str(rig.write_model("llama")),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "chat_template"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "chat_template_jinja": read_template("chatml"),
        "chat_template": "jinja",
        "shuffle_merged_datasets": False,
        "sequence_len": 512,
        "learning_rate": 0.1,
        "output_dir": str(folder / "out"),
    }
    _prepare(folder, keys)
    must_hit = cell.case in _SAME
    (_SAME if must_hit else _CHANGES)[cell.case](folder, keys)
    prepared, is_known = _prepare(folder, keys)
    yield (
        "prepared data used although it is stale, or not used although it is not",
        float(is_known != must_hit),
        0.0,
    )
    fresh, _ = _prepare(folder, {**keys, "dataset_prepared_path": str(folder / "fresh")})
    yield "samples that are not those of a fresh preparation", float(_list(prepared) != _list(fresh)), 0.0
    yield "fingerprints that differ for the same data", float(prepared.fingerprint != fresh.fingerprint), 0.0


def _prepare(folder: Path, keys: Keys) -> tuple[Prepared, bool]:
    """The data of a config, and whether it was there already."""
    path = folder / "config.yml"
    path.write_text(json.dumps(keys))
    config, _ = load_config(str(path))
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    preparation = Preparation(tokenizer, config.tokenizer, config.data, config.batch.seed)
    root = Path(keys["dataset_prepared_path"])
    before = _count_folders(root)
    prepared = prepare_data(preparation, config.packing)
    return prepared, _count_folders(root) == before


def _count_folders(root: Path) -> int:
    return sum(path.is_dir() for path in root.glob("*"))


def _list(prepared: Prepared) -> list[tuple[list[int], list[int]]]:
    return [
        (np.asarray(sample.input_ids).tolist(), np.asarray(sample.labels).tolist())
        for sample in list_samples(prepared)
    ]


ROW = Row(
    number=22,
    proves="Prepared data is used again only while all is the same that made it, and then always.",
    cells=list_cells,
    run=run,
)
