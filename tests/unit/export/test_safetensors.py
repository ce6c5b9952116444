"""Folders of safetensors hold the same bits, in other shards or once rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from siredon.errors import CheckpointError, ModelError
from siredon.export.formats.safetensors import export_safetensors
from siredon.export.shards import compare_weights, parse_bytes
from siredon.export.source import Source
from siredon.export.wanted import Wanted


@pytest.fixture
def source(model_folder: Path, tmp_path: Path) -> Source:
    return Source(model_folder, tmp_path)


def test_shards_hold_the_same_bits(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run.json").write_text("{}")
    folder = export_safetensors(source, Wanted("safetensors", max_shard_size="100KB"))
    files = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    ours = load_file(source.folder / "model.safetensors")
    theirs = {name: weight for file in files for name, weight in load_file(file).items()}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in ours.values())
    assert all(file.stat().st_size < 105_000 or len(load_file(file)) == 1 for file in files)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert {"run.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "the same bits" in capsys.readouterr().out


def test_another_type_is_each_value_rounded_once(source: Source, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = export_safetensors(source, Wanted("safetensors", "bf16", tmp_path / "half"))
    ours, theirs = load_file(source.folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(theirs[name], weight.bfloat16()) for name, weight in ours.items())
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_a_changed_bit_and_a_missing_tensor_are_found(source: Source, tmp_path: Path):
    folder = export_safetensors(source, Wanted("safetensors", output=tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    checks = {check.name: check for check in compare_weights(source, folder, None)}
    assert checks["weights"].found == "model.norm.weight has other bits"
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    checks = {check.name: check for check in compare_weights(source, folder, None)}
    assert checks["weights"].found == "model.norm.weight is missing"
    assert checks["transformers"].found == "model.norm.weight is missing"
    assert not checks["weights"].passed


def test_what_cannot_be_written_is_refused(source: Source, tmp_path: Path, model_folder: Path):
    with pytest.raises(ModelError, match=r"Did you mean `bf16`") as caught:
        export_safetensors(source, Wanted("safetensors", "bf61"))
    assert "siredon quantize" in caught.value.fix
    with pytest.raises(ModelError, match="no size"):
        parse_bytes("5 apples")
    assert parse_bytes("1.5 gb") == 1_500_000_000
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "letter.txt").write_text("Dear all")
    with pytest.raises(CheckpointError, match="not of an export"):
        export_safetensors(source, Wanted("safetensors", output=theirs))
    assert (theirs / "letter.txt").is_file()
    large: Any = tmp_path / "large"
    large.mkdir()
    for path in model_folder.iterdir():
        (large / path.name).write_bytes(path.read_bytes())
    weights = load_file(large / "model.safetensors")
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot hold"):
        export_safetensors(Source(large, tmp_path), Wanted("safetensors", "f16"))
    assert not (tmp_path / "safetensors").exists()
    assert not list(tmp_path.glob(".writing-*"))
