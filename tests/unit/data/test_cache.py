"""The cache: one process prepares for all, a killed one leaves nothing, damage is seen, keys are exact."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT, build_tokenizer
from tests.unit.data.test_prepare import alpaca, write_rows

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data import cache, prepare
from siredon.data.audit import Counts
from siredon.data.cache import Content, clear_cache, list_cache, load_or_make
from siredon.data.table import build_table
from siredon.data.types import Sample
from siredon.errors import DataError

#: As `cache_key` makes them.
KEY = "0" * 24

#: A process that prepares under one key; `slow` makes it stop while it writes.
CHILD = """
import os, sys, time
from pathlib import Path

import numpy as np

from siredon.data import cache
from siredon.data.audit import Counts
from siredon.data.table import build_table
from siredon.data.types import Sample

root, slow = Path(sys.argv[1]), sys.argv[2] == "slow"
if slow:
    save = np.save
    def save_slowly(path, array):
        save(path, array)
        print("saved", flush=True)
        time.sleep(60)
    np.save = save_slowly

def make():
    with open(root.parent / "made.log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    ids = np.arange(40, dtype=np.int32) * 7 + os.getpid() % 1000
    table = build_table([Sample(ids, ids)])
    return table, Counts("rows", 1, 1, 0, 1, table.num_tokens, table.num_targets)

print("ready", flush=True)
sys.stdin.readline()
(table, counts), cached = cache.load_or_make(root, "0" * 24, make)
print(table[0].input_ids.tolist(), counts.num_tokens, cached, flush=True)
"""
FILES = ("input_ids.npy", "labels.npy", "offsets.npy", "digests.npy", "counts.json")


def make_content(seed: int, size: int = 40) -> Content:
    ids = (np.arange(size, dtype=np.int32) * 7 + seed) % 1000
    table = build_table([Sample(ids, ids), Sample(ids[:5], ids[:5])])
    return table, Counts("rows", 2, 2, 0, 2, table.num_tokens, table.num_targets, {"why": 1}, ("row 1",))


def start(root: Path, mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root.parent,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def test_of_two_processes_one_prepares_and_both_have_the_same(tmp_path: Path):
    children = [start(tmp_path / "prepared", "fast") for _ in range(2)]
    for child in children:
        go(child)
    answers = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert answers[0][:-1] == answers[1][:-1]
    assert sorted(answer[-1] for answer in answers) == ["False", "True"]
    assert len((tmp_path / "made.log").read_text().splitlines()) == 1


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_that_looks_whole(tmp_path: Path):
    root = tmp_path / "prepared"
    child = start(root, "slow")
    go(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "saved\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    assert not (root / KEY).exists()
    assert list_cache(root) == ()
    left = [path for path in root.iterdir() if path.is_dir()]
    assert left, "the process was killed before it wrote anything"
    began = time.monotonic()
    (table, _), cached = load_or_make(root, KEY, lambda: make_content(3))
    assert time.monotonic() - began < 10  # Its lock died with it
    assert not cached
    assert (table[0].input_ids == make_content(3)[0][0].input_ids).all()
    assert clear_cache(root) > 0
    assert [path for path in root.iterdir() if path.is_dir()] == []


def damage_of(kind: str) -> Callable[[Path], None]:
    def truncate(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: {"empty": 0, "head": 7, "half": len(content) // 2, "last": -1}[kind]])

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        place = {"magic": 0, "header": 12, "type": content.find(b"4") if b"<i4" in content else 20}[kind]
        content[place] ^= 0x0C
        path.write_bytes(bytes(content))

    def replace(path: Path) -> None:
        path.unlink()
        if kind == "folder":
            path.mkdir()

    kinds = {"truncate": ("empty", "head", "half", "last"), "change": ("magic", "header", "type")}
    return truncate if kind in kinds["truncate"] else change if kind in kinds["change"] else replace


@pytest.mark.parametrize(
    "kind", ["empty", "head", "half", "last", "magic", "header", "type", "gone", "folder"]
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_made_anew(name: str, kind: str, tmp_path: Path):
    load_or_make(tmp_path, KEY, lambda: make_content(1))
    assert load_or_make(tmp_path, KEY, lambda: make_content(2))[1]
    damage_of(kind)(tmp_path / KEY / name)
    (table, counts), cached = load_or_make(tmp_path, KEY, lambda: make_content(2))
    wanted = make_content(2)
    assert not cached
    assert counts == wanted[1]
    for array in ("input_ids", "labels", "offsets", "digests"):
        assert (getattr(table, array) == getattr(wanted[0], array)).all()
    assert load_or_make(tmp_path, KEY, lambda: make_content(3))[1]


@pytest.mark.parametrize("text", ["null", "[]", "{}", '"x"', "3", '{"source": "rows"}', '{"other": 1}'])
def test_counts_that_are_no_counts_are_made_anew(text: str, tmp_path: Path):
    load_or_make(tmp_path, KEY, lambda: make_content(1))
    (tmp_path / f"{KEY}/counts.json").write_text(text)
    assert list_cache(tmp_path) == ()
    assert not load_or_make(tmp_path, KEY, lambda: make_content(1))[1]


@pytest.mark.parametrize("name", FILES[:-1])
def test_an_array_of_other_samples_is_made_anew(name: str, tmp_path: Path):
    load_or_make(tmp_path / "a", KEY, lambda: make_content(1))
    load_or_make(tmp_path / "b", KEY, lambda: make_content(1, size=50))
    shutil.copy(tmp_path / f"b/{KEY}" / name, tmp_path / f"a/{KEY}" / name)
    if name != "digests.npy":
        assert not load_or_make(tmp_path / "a", KEY, lambda: make_content(1))[1]
    shutil.copy(tmp_path / f"b/{KEY}" / name, tmp_path / f"a/{KEY}" / name)
    np.save(tmp_path / f"a/{KEY}" / name, np.zeros((1, 2), dtype=np.uint64))
    assert not load_or_make(tmp_path / "a", KEY, lambda: make_content(1))[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be kept there"):
        load_or_make(tmp_path / "prepared", KEY, lambda: make_content(1))


def test_a_place_that_is_a_file_is_an_error_with_a_way_out(tmp_path: Path):
    (tmp_path / "prepared").write_text("a file")
    with pytest.raises(DataError, match="cannot be kept there"):
        load_or_make(tmp_path / "prepared", KEY, lambda: make_content(1))


def test_what_fails_while_it_is_made_leaves_nothing(tmp_path: Path):
    def fail() -> Content:
        raise DataError("a bad row", "mend it")

    with pytest.raises(DataError, match="a bad row"):
        load_or_make(tmp_path, KEY, fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert not load_or_make(tmp_path, KEY, lambda: make_content(1))[1]


TALK = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3


class Keys:
    """Prepares one data set again and again, each time with something else changed."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.entry = {**write_rows(folder / "rows.jsonl", TALK), "type": "chat_template"}

    def key(self, *, tokenizer: Any = None, section: dict[str, Any] | None = None, **keys: Any) -> str:
        seed, entry = keys.pop("seed", 7), keys.pop("entry", {})
        values = {
            "datasets": [{**self.entry, **entry}],
            "dataset_prepared_path": str(self.folder / "p"),
            **keys,
        }
        preparation = prepare.Preparation(
            tokenizer or self.tokenizer,
            TokenizerSection.model_validate(section or {}),
            DataSection.model_validate(values),
            seed,
        )
        prepare.prepare_data(preparation, PackingSection())
        root = Path(values["dataset_prepared_path"]).expanduser()
        (name,) = [path.name for path in root.iterdir() if path.is_dir()]
        shutil.rmtree(root)
        return name


@pytest.fixture
def keys(tmp_path: Path, tokenizer: Any) -> Keys:
    return Keys(tmp_path, tokenizer)


def other_tokenizer(change: str) -> Any:
    from siredon.data.templates.chatml import TEMPLATE

    built = build_tokenizer(size=500 if change == "vocabulary" else 512)
    built.chat_template = TEMPLATE.source
    if change == "special":
        built.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    if change == "eos":
        built.eos_token = "<|endoftext|>"
    return built


CHANGES: dict[str, dict[str, Any]] = {
    "sequence_len": {"sequence_len": 999},
    "excess_length_strategy": {"excess_length_strategy": "truncate"},
    "train_on_inputs": {"train_on_inputs": True},
    "min_sample_len": {"min_sample_len": 3},
    "bad_rows": {"bad_rows": "drop"},
    "roles_to_train": {"entry": {"roles_to_train": ["assistant", "user"]}},
    "train_on_eos": {"entry": {"train_on_eos": "all"}},
    "template of the entry": {"entry": {"chat_template": "llama3", "train_on_eos": "none"}},
    "field_messages": {"entry": {"field_messages": "messages", "field_tools": "other"}},
    "part of the rows": {"entry": {"split": "train[:2]"}},
    "template": {"section": {"chat_template": "llama3", "eot_tokens": ["<|eot_id|>"]}},
    "template variables": {"section": {"chat_template_kwargs": {"enable_thinking": False}}},
    "eot_tokens": {"section": {"eot_tokens": ["<|eot_id|>"]}},
}
SAME: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the order of the rows": {"shuffle_merged_datasets": False, "seed": 8},
    "held-out rows": {"val_set_size": 1},
    "equal rows": {"dataset_exact_deduplication": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_samples_changes_the_key(change: str, keys: Keys):
    assert keys.key(**CHANGES[change]) != keys.key()


@pytest.mark.parametrize("change", ["special", "vocabulary", "eos"])
def test_another_tokenizer_changes_the_key(change: str, keys: Keys):
    assert keys.key(tokenizer=other_tokenizer("")) == keys.key()
    section = {"eot_tokens": ["<|im_end|>"]}
    assert keys.key(tokenizer=other_tokenizer(change), section=section) != keys.key(section=section)


@pytest.mark.parametrize("change", SAME)
def test_what_decides_only_their_order_does_not(change: str, keys: Keys):
    write_rows(keys.folder / "rows.jsonl", [*TALK, *json.loads(json.dumps(TALK).replace('"b"', '"c"'))])
    assert keys.key(**SAME[change]) == keys.key()


def test_bytes_of_the_data_change_the_key_and_the_time_of_the_file_does_not(keys: Keys):
    before = keys.key()
    os.utime(keys.folder / "rows.jsonl", (1, 1))
    assert keys.key() == before
    text = (keys.folder / "rows.jsonl").read_text()
    (keys.folder / "rows.jsonl").write_text(text.replace('"b"', '"c"', 1))
    os.utime(keys.folder / "rows.jsonl", (1, 1))
    assert keys.key() != before


def test_the_folder_of_the_cache_is_no_part_of_the_key(keys: Keys):
    assert keys.key(dataset_prepared_path=str(keys.folder / "elsewhere")) == keys.key()


def test_where_a_run_is_written_decides_nothing(tmp_path: Path):
    from siredon.config.load import load_config

    found = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.yml"
        values = {
            "base_model": "m",
            "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
            "learning_rate": 1e-4,
            "output_dir": name,
        }
        path.write_text(json.dumps(values))
        config, _ = load_config(str(path), [])
        found.append((config.data, config.tokenizer, config.packing))
    assert found[0] == found[1]


def test_code_and_libraries_change_the_key(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(Path(cache.__file__).parent, tmp_path / "data")
    real = cache.fingerprint_code()
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "data/cache.py"))
    assert cache.fingerprint_code.__wrapped__() == real
    part = tmp_path / "data/formats/alpaca.py"
    part.write_text(part.read_text() + "\n# changed\n")
    changed = cache.fingerprint_code.__wrapped__()
    monkeypatch.setattr(cache.metadata, "version", lambda name: "0")
    assert len({real, changed, cache.fingerprint_code.__wrapped__()}) == 3
    before = keys.key()
    monkeypatch.setattr(prepare, "fingerprint_code", lambda: changed)
    assert keys.key() != before


def test_the_module_of_a_format_of_the_users_changes_the_key(keys: Keys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(keys.folder)
    entry = {**alpaca(keys.folder, ["a"], "alpaca.jsonl")}
    code = "def up(row):\n    return {**row, 'output': row['output'] + '!'}\n"
    (keys.folder / "shouting.py").write_text(code)
    before = keys.key(entry={**entry, "input_transform": "shouting.up"})
    (keys.folder / "shouting.py").write_text(code.replace("!", "?"))
    assert keys.key(entry={**entry, "input_transform": "shouting.up"}) != before
