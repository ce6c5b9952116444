"""Folders: splits by name as `datasets` finds them, README configurations, chosen files, saved data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.folder import find_splits, match_names
from siredon.data.load import Source, load_rows
from siredon.errors import DataError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"file": name}) + "\n")


def load(path: Path | str, **keys: Any) -> Source:
    return load_rows(DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys}))


def files(path: Path | str, **keys: Any) -> list[str]:
    return [row["file"] for row in load(path, **keys).rows]


FOLDERS = [
    ["a.jsonl", "b.jsonl"],
    ["train.jsonl", "test.jsonl"],
    ["train.jsonl", "valid.jsonl", "extra.jsonl"],
    ["my-train-1.jsonl", "my_dev.jsonl", "my.eval.jsonl"],
    ["training.jsonl", "evaluation.jsonl", "val 2.jsonl"],
    ["trainer.jsonl", "latest.jsonl"],
    ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"],
    ["x/train/a.jsonl", "x/validation/b/c.jsonl"],
    ["my_train_2/a.jsonl", "eval/b.jsonl"],
    ["train/test.jsonl", "train/a.jsonl"],
    [
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/odd.name-00000-of-00001.jsonl",
    ],
    ["data/train-00000-of-00001-abc.jsonl", "data/test-00000-of-00001.jsonl", "other.jsonl"],
    ["sub/deep/a.jsonl"],
    ["train_test.jsonl"],
]


@pytest.mark.parametrize("names", FOLDERS, ids=lambda names: names[0])
def test_splits_are_those_of_datasets(tmp_path: Path, names: list[str]):
    from datasets.data_files import DataFilesDict, get_data_patterns

    write(tmp_path, *names)
    found = DataFilesDict.from_patterns(get_data_patterns(str(tmp_path)), base_path=str(tmp_path))
    expected = {
        str(split): sorted(Path(p).relative_to(tmp_path).as_posix() for p in paths)
        for split, paths in found.items()
    }
    ours = {split: sorted(chosen) for split, chosen in find_splits(sorted(names), None, "x").items()}
    assert ours == expected


def test_a_split_is_chosen_and_what_there_is_is_said(tmp_path: Path):
    write(tmp_path, "train.jsonl", "test.jsonl", "validation.jsonl")
    assert files(tmp_path) == ["train.jsonl"]
    assert files(tmp_path, split="test") == ["test.jsonl"]
    assert files(tmp_path, split="train+test") == ["train.jsonl", "test.jsonl"]
    assert sorted(files(tmp_path, split="all")) == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    with pytest.raises(DataError, match="there is no split `dev`") as error:
        load(tmp_path, split="dev")
    assert error.value.fix == "Set `split`; there are: `train`, `validation`, `test`."


def test_the_only_split_is_taken_whatever_its_name(tmp_path: Path):
    write(tmp_path, "test.jsonl")
    assert files(tmp_path) == ["test.jsonl"]


def test_hidden_files_and_what_describes_the_data_is_left_out(tmp_path: Path):
    write(
        tmp_path, "a.jsonl", ".git/b.jsonl", ".c.jsonl", "config.json", "dataset_infos.json", "sub/.d/e.jsonl"
    )
    (tmp_path / "README.md").write_text("# About")
    (tmp_path / "LICENSE.txt").write_text("Free.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert files(tmp_path) == ["a.jsonl"]


def test_texts_are_rows_where_there_is_nothing_else(tmp_path: Path):
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = load(tmp_path)
    assert [row["text"] for row in source.rows] == ["a.txt", "b.txt", "sub/c.txt"]
    assert source.place(2) == f"{tmp_path}/sub/c.txt: row 1"


def test_files_of_several_kinds_need_a_choice(tmp_path: Path):
    write(tmp_path, "a.jsonl")
    (tmp_path / "b.csv").write_text("file\nb.csv\n")
    with pytest.raises(DataError, match="the folder holds files of several kinds: csv and json"):
        load(tmp_path)
    assert files(tmp_path, ds_type="csv") == ["b.csv"]
    assert files(tmp_path, data_files="*.jsonl") == ["a.jsonl"]
    assert files(tmp_path, data_files=["b.csv", "a.jsonl"]) == ["a.jsonl", "b.csv"]


def test_chosen_files_are_all_of_the_split_train(tmp_path: Path):
    write(tmp_path, "train.jsonl", "test.jsonl", "sub/deep/x.jsonl", "sub/y.jsonl")
    assert files(tmp_path, data_files="te*.jsonl") == ["test.jsonl"]
    assert files(tmp_path, data_files=["sub/**/*.jsonl"], split="train[1:]") == ["sub/y.jsonl"]
    assert files(tmp_path, data_files=f"{tmp_path}/sub/y.jsonl") == ["sub/y.jsonl"]
    with pytest.raises(DataError, match=r"the folder holds no file that matches x\.jsonl"):
        load(tmp_path, data_files="x.jsonl")


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*", ["a.json"]),
        ("**", ["a.json", "b/a.json", "b/c/ab.json"]),
        ("**/a.json", ["a.json", "b/a.json"]),
        ("b/*", ["b/a.json"]),
        ("./b/**", ["b/a.json", "b/c/ab.json"]),
        ("?.json", ["a.json"]),
        ("**/[!a]*/*", ["b/a.json", "b/c/ab.json"]),
        ("a+json", []),
    ],
)
def test_patterns_mean_what_they_mean_elsewhere(pattern: str, chosen: list[str]):
    assert match_names(["a.json", "b/a.json", "b/c/ab.json"], [pattern]) == chosen


def test_a_folder_without_data_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="the folder holds no file"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="the folder holds no data file") as error:
        load(tmp_path)
    assert "jsonl" in error.value.fix


def test_a_kind_as_path_reads_the_files_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "b.data", "a.data")
    assert files("json", data_files=["b.data", "a.data"]) == ["b.data", "a.data"]
    assert files("json", data_files="*.data", split="train[:1]") == ["a.data"]
    with pytest.raises(DataError, match=r"c\.data: there is no such file"):
        load("json", data_files="c.data")


# Data sets of the hub, cloned

README = """---
license: mit
configs:
- config_name: small
  data_files: small/*.jsonl
- config_name: large
  default: true
  data_files:
  - split: train
    path: [large/a.jsonl, "large/b*.jsonl"]
  - split: held.out
    path: large/z.jsonl
- config_name: by_folder
  data_dir: other
---
# About
"""


def test_the_readme_of_a_cloned_data_set_says_what_its_configurations_are(tmp_path: Path):
    names = (
        "small/s.jsonl",
        "large/a.jsonl",
        "large/b1.jsonl",
        "large/z.jsonl",
        "other/test.jsonl",
        "other/train.jsonl",
    )
    write(tmp_path, *names)
    (tmp_path / "README.md").write_text(README)
    assert files(tmp_path, name="small") == ["small/s.jsonl"]
    assert files(tmp_path) == ["large/a.jsonl", "large/b1.jsonl"]
    assert files(tmp_path, split="held.out") == ["large/z.jsonl"]
    assert files(tmp_path, name="by_folder", split="test") == ["other/test.jsonl"]
    assert files(tmp_path, name=["small", "large"]) == ["small/s.jsonl", "large/a.jsonl", "large/b1.jsonl"]
    with pytest.raises(DataError, match="there is no configuration `none`") as error:
        load(tmp_path, name="none")
    assert "`small`, `large`, `by_folder`" in error.value.fix


@pytest.mark.parametrize(
    "head", ["---\n: [\n---\n", "---\nconfigs: 3\n---\n", "no head", "---\nlicense: mit\n---\n"]
)
def test_a_readme_that_lists_nothing_changes_nothing(tmp_path: Path, head: str):
    write(tmp_path, "a.jsonl")
    (tmp_path / "README.md").write_text(head)
    assert files(tmp_path) == ["a.jsonl"]


# Folders that `datasets` saved


def test_saved_data_sets_are_read_with_their_splits(tmp_path: Path):
    import datasets

    train = datasets.Dataset.from_list(
        [{"file": str(number), "m": [{"x": number}]} for number in range(2_500)]
    )
    train = train.filter(lambda row: row["file"] != "7", keep_in_memory=True)
    train.save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict({"train": train, "test": datasets.Dataset.from_list([{"file": "t"}])})
    both.save_to_disk(str(tmp_path / "both"))
    source = load(tmp_path / "one")
    assert list(source.rows) == list(train)
    assert source.rows[7] == {"file": "8", "m": [{"x": 8}]}
    assert source.place(7) == f"{tmp_path}/one: row 8"
    assert files(tmp_path / "one", split="train[-2:]") == ["2498", "2499"]
    assert files(tmp_path / "both", split="test") == ["t"]
    with pytest.raises(DataError, match="there is no split `dev`"):
        load(tmp_path / "both", split="dev")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="the saved data set cannot be read"):
        load(tmp_path / "one")
