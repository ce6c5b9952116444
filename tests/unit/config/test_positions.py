from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import DATASETS, check

from siredon.config.checks.positions import num_positions
from siredon.config.diagnostics import Diagnostic


@pytest.fixture
def write_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a model's config; gives the beginning of a configuration on it."""
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path / "siredon"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def write(folder: str, text: str, name: str = "") -> str:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(text)
        return f"base_model: {name or tmp_path / folder}\nlearning_rate: 1e-4\n{DATASETS}"

    return write


def config(model_type: str = "llama", **values: Any) -> str:
    return json.dumps({"model_type": model_type, **values})


def problems(start: str, added: str) -> list[Diagnostic]:
    return list(check(added, start).diagnostics)


def test_a_row_may_be_as_long_as_the_positions_and_no_longer(write_model):
    start = write_model("m", config(max_position_embeddings=2048))
    assert problems(start, "sequence_len: 2048\n") == []
    (problem,) = problems(start, "sequence_len: 2049\n")
    assert (problem.code, problem.severity, problem.key) == ("SD0160", "warning", "sequence_len")
    assert "2,048 positions" in problem.message
    assert problem.place.column == len("sequence_len: ") + 1
    assert "rope_scaling" in problem.fix


def test_behind_a_learned_table_of_positions_there_is_nothing(write_model):
    (problem,) = problems(write_model("m", config("gpt2", n_positions=1024)), "sequence_len: 1025\n")
    assert problem.severity == "error"
    assert "rope_scaling" not in problem.fix


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({"max_position_embeddings": 32768, "rope_scaling": {"factor": 4.0}}, 131072),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 77}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": "many"}, None),
        ({}, None),
    ],
)
def test_the_positions_are_those_of_the_config_with_its_scaling(values: dict[str, Any], limit: int | None):
    assert num_positions(values) == limit


def test_settings_of_the_model_in_the_file_count(write_model):
    start = write_model("m", config(max_position_embeddings=1000))
    scaled = "model_config: {rope_scaling: {rope_type: linear, factor: 2.0}}\n"
    assert problems(start, scaled + "sequence_len: 2000\n") == []
    assert problems(start, scaled + "sequence_len: 2001\n")


def test_a_model_in_the_users_cache_is_found(write_model):
    start = write_model("siredon/models/an/id", config(max_position_embeddings=100), name="an/id")
    assert [problem.code for problem in problems(start, "sequence_len: 101\n")] == ["SD0160"]


def test_a_model_in_the_cache_of_the_hub_is_found_by_its_revision(write_model, tmp_path: Path):
    folder = "hub/models--an--id"
    start = write_model(f"{folder}/snapshots/abc", config(max_position_embeddings=100), name="an/id")
    assert problems(start, "sequence_len: 101\n") == []
    assert problems(start, "sequence_len: 101\nmodel_revision: abc\n")
    (tmp_path / folder / "refs").mkdir()
    (tmp_path / folder / "refs/main").write_text("abc")
    assert problems(start, "sequence_len: 101\n")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"max_position_embeddings": true}', "[" * 100_000, "\0"])
def test_a_config_that_says_nothing_is_passed_over(write_model, text: str):
    assert problems(write_model("m", text), "sequence_len: 100000\n") == []


@pytest.mark.parametrize("name", ["no/such/model", "~nobody/x", "x" * 5000])
def test_a_model_that_is_not_here_is_passed_over(name: str):
    start = f"base_model: {name}\nlearning_rate: 1e-4\n{DATASETS}"
    assert problems(start, "sequence_len: 100000\n") == []
