from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import ROOT

from siredon.config.load import check_config
from siredon.errors import SiredonError
from siredon.examples import copy_example, find_example, find_examples


def test_every_configuration_of_the_folder_is_listed_with_what_it_is():
    names = {
        path.relative_to(ROOT / "examples").with_suffix("").as_posix()
        for path in ROOT.glob("examples/*/*.yml")
    }
    assert {example.name for example in find_examples()} == names
    assert all(example.about for example in find_examples())


@pytest.mark.parametrize("name", ["smollm2/identity-lora-cpu", "examples/smollm2/identity-lora-cpu.yml"])
def test_an_example_is_found_by_its_name_or_its_path(name: str):
    assert find_example(name).path == ROOT / "examples/smollm2/identity-lora-cpu.yml"


def test_an_unknown_example_is_reported_with_the_nearest():
    with pytest.raises(SiredonError, match=r"Did you mean `smollm2/identity-lora-cpu`"):
        find_example("smollm2/identity-lora-gpu")


def test_a_copied_example_is_right_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    example = find_example("smollm2/identity-lora-cpu")
    written = copy_example(example, tmp_path, force=False)
    assert (tmp_path / "examples/smollm2/identity.jsonl") in written
    monkeypatch.chdir(tmp_path)
    checked = check_config("examples/smollm2/identity-lora-cpu.yml")
    assert checked.config is not None
    assert Path(checked.config.data.datasets[0].path).is_file()


def test_nothing_is_replaced_without_being_told_to(tmp_path: Path):
    example = find_example("smollm2/identity-lora-cpu")
    (target, *_) = copy_example(example, tmp_path, force=False)
    target.write_text("mine")
    with pytest.raises(SiredonError, match="--force"):
        copy_example(example, tmp_path, force=False)
    assert target.read_text() == "mine"
    copy_example(example, tmp_path, force=True)
    assert target.read_text() != "mine"


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_reported(folder: str):
    with pytest.raises(SiredonError, match=folder):
        copy_example(find_example("smollm2/identity-lora-cpu"), Path(folder), force=False)


def test_files_that_are_there_and_the_same_are_left_alone(tmp_path: Path):
    copy_example(find_example("smollm2/identity-lora-cpu"), tmp_path, force=False)
    assert copy_example(find_example("smollm2/identity-full-cpu"), tmp_path, force=False) == ()
