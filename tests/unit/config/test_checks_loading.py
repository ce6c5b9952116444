"""Rules on how a model is loaded, of which some need files to look at."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import DATASETS, check, find, find_one

from siredon.config.diagnostics import Diagnostic

ROPE = "model_config:\n  rope_scaling: "


def problems(folder: Path, added: str = "") -> list[Diagnostic]:
    start = f"base_model: {folder}\nlearning_rate: 1e-4\n{DATASETS}"
    return list(check(added, start).diagnostics)


def write(folder: Path, *names: str, **config: Any) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_gguf_file_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(tmp_path, "tiny.gguf") / "tiny.gguf"
    assert problems(file) == problems(tmp_path) == []
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else present(name, *a)
    )
    (problem,) = problems(file)
    assert (problem.code, problem.key) == ("SD0501", "base_model")
    assert "pip install 'siredon[gguf]'" in problem.fix
    assert [problem.code for problem in problems(tmp_path)] == ["SD0501"]


def test_one_of_several_gguf_files_is_named(tmp_path: Path):
    write(tmp_path, "a.Q4.gguf", "b.Q8.gguf")
    (problem,) = problems(tmp_path)
    assert (problem.code, problem.key) == ("SD0502", "base_model")
    assert str(tmp_path / "a.Q4.gguf") in problem.fix
    assert problems(tmp_path / "b.Q8.gguf") == []
    (problem,) = problems(tmp_path / "b.Q4.gguf")
    assert (problem.code, "holds no file b.Q4.gguf" in problem.message) == ("SD0502", True)
    write(tmp_path, model_type="llama")
    assert problems(tmp_path) == []


def test_pickles_are_asked_for(tmp_path: Path):
    write(tmp_path, "pytorch_model-00001-of-00002.bin", "training_args.bin", model_type="llama")
    (problem,) = problems(tmp_path)
    assert (problem.code, problem.key) == ("SD0503", "base_model")
    assert problems(tmp_path, "allow_pickle: true\n") == []
    assert problems(tmp_path, "reinit_weights: true\n") == []
    write(tmp_path, "model.safetensors")
    assert problems(tmp_path) == []


def test_code_that_comes_with_a_model_is_trusted_first(tmp_path: Path):
    write(tmp_path, model_type="strange", auto_map={"AutoConfig": "strange.StrangeConfig"})
    (problem,) = problems(tmp_path)
    assert (problem.code, problem.key) == ("SD0504", "base_model")
    assert "trust_remote_code: true" in problem.fix
    assert problems(tmp_path, "trust_remote_code: true\n") == []
    # A model that transformers has needs no code of its own
    write(tmp_path, model_type="llama", auto_map={"AutoConfig": "strange.StrangeConfig"})
    assert problems(tmp_path) == []


def test_a_type_that_nobody_has_is_told(tmp_path: Path):
    (problem,) = problems(write(tmp_path, model_type="lama"))
    assert (problem.code, problem.severity) == ("SD0504", "error")
    assert "`llama`" in problem.fix


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{factor: 2.0}", "does not say `rope_type`"),
        ("{rope_type: yearn, factor: 2.0}", "has `rope_type: yearn`, which is none"),
        ("{type: linear}", "`rope_type: linear` needs `factor`"),
        ("{rope_type: llama3, factor: 8.0, low_freq_factor: 1.0}", "needs `high_freq_factor`"),
        ("{rope_type: linear, factor: 2.0, beta_fast: 32}", "`rope_type: linear` has no `beta_fast`"),
        ("{rope_type: yarn, factor: 0.5}", "`factor: 0.5` of `rope_type: yarn` is no number of 1 or more"),
        ("{rope_type: yarn, factor: big}", "`factor: big` of"),
        (
            "{rope_type: yarn, factor: 2, original_max_position_embeddings: 0}",
            "`original_max_position_embeddings: 0` is no number of positions",
        ),
        ("{full_attention: {rope_type: linear}}", "`rope_type: linear` needs `factor`"),
    ],
)
def test_positions_are_scaled_in_a_way_that_exists(settings: str, message: str):
    problem = find_one(f"{ROPE}{settings}\n")
    assert (problem.code, problem.key) == ("SD0505", "model_config.rope_scaling")
    assert message in problem.message


@pytest.mark.parametrize(
    "settings",
    [
        "{rope_type: yarn, factor: 4.0, original_max_position_embeddings: 4096, beta_fast: 32}",
        "{rope_type: longrope, short_factor: [1.0], long_factor: [2.0]}",
        "{full_attention: {rope_type: linear, factor: 2.0}}",
        "{rope_theta: 500000.0}",
    ],
)
def test_positions_may_be_scaled(settings: str):
    assert find(f"{ROPE}{settings}\n") == []


def test_the_base_frequency_may_stand_alone():
    assert find("model_config:\n  rope_theta: 500000.0\n") == []


@pytest.mark.parametrize(
    ("added", "code", "key"),
    [
        ("model_kwargs: {dtype: auto}\n", "SD0506", "model_kwargs.dtype"),
        ("model_kwargs: {use_safetensors: false}\n", "SD0506", "model_kwargs.use_safetensors"),
        ("model_kwargs: {subfoldr: x}\n", "SD0507", "model_kwargs.subfoldr"),
        ("added_tokens_overrides: {-1: <a>}\n", "SD0508", "added_tokens_overrides"),
        ("added_tokens_overrides: {1: ''}\n", "SD0508", "added_tokens_overrides"),
        ("added_tokens_overrides: {1: ' <a>'}\n", "SD0508", "added_tokens_overrides"),
        ("added_tokens_overrides: {1: <a>}\ntokens: [<a>]\n", "SD0508", "added_tokens_overrides"),
        ("tokens: [<a>, <a>]\n", "SD0509", "tokens"),
    ],
)
def test_what_is_said_of_arguments_and_tokens(added: str, code: str, key: str):
    assert find(added) == [(code, key)]


def test_arguments_of_a_model_with_code_of_its_own_are_passed_on():
    assert find("model_kwargs: {strange: 1}\ntrust_remote_code: true\n") == []


def test_a_device_may_be_written_as_a_number():
    checked = check("max_memory:\n  0: 20GiB\n  cpu: 30GiB\n")
    assert checked.diagnostics == ()
    assert checked.config is not None
    assert checked.config.placement.max_memory == {"0": "20GiB", "cpu": "30GiB"}
