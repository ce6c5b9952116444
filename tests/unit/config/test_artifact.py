from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siredon.config.artifact import load_target
from siredon.errors import ConfigError


def write_record(folder: Path, started_in: Path, **given: Any) -> None:
    given = {"learning_rate": 2e-4, **given}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"given": given, "folder": str(started_in)}))


ROWS = [{"path": "rows.jsonl", "type": "alpaca"}]
ADAPTER = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True, "load_in_8bit": True}


def test_the_folder_of_a_run_knows_its_config_wherever_it_lies(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("{}")
    out = tmp_path / "moved"
    write_record(out, tmp_path, base_model="owner/name", datasets=ROWS, output_dir="outputs/x", **ADAPTER)
    (out / "adapter_config.json").write_text("{}")
    config, _ = load_target(str(out))
    assert config.checkpoint.output_folder == out
    assert config.model.base_model == "owner/name"
    assert config.data.datasets[0].path == str(tmp_path / "rows.jsonl")
    assert config.adapter.lora_r == 8
    checkpoint = out / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text("{}")
    (out / "latest").symlink_to("checkpoint-4")
    for folder in (checkpoint, out / "latest"):
        config, _ = load_target(str(folder))
        assert config.checkpoint.output_folder == folder
        assert config.adapter.adapter == "lora"


def test_of_a_merged_model_the_adapter_and_the_rounding_are_done_with(tmp_path: Path):
    out = tmp_path / "merged"
    write_record(out, tmp_path, base_model="owner/name", datasets=ROWS, output_dir="x", **ADAPTER)
    (out / "config.json").write_text("{}")
    config, _ = load_target(str(out))
    assert config.adapter.adapter is None
    assert not config.quantization.ways
    assert config.data.datasets[0].type == "alpaca"
    assert config.checkpoint.output_folder == out


def test_an_adapter_from_elsewhere_names_its_base(tmp_path: Path):
    settings = {"base_model_name_or_path": "owner/name", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    config, _ = load_target(str(tmp_path))
    assert (config.model.base_model, config.adapter.adapter) == ("owner/name", "lora")


def test_a_file_is_read_as_ever_and_what_is_neither_is_said_to_be_no_file(tmp_path: Path):
    path = tmp_path / "a.yml"
    path.write_text(
        "base_model: a/b\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\noutput_dir: x\nlearning_rate: 1e-4\n"
    )
    assert load_target(str(path))[0].model.base_model == "a/b"
    with pytest.raises(ConfigError):
        load_target(str(tmp_path / "nothing.yml"))


@pytest.mark.parametrize("template", [True, False])
def test_a_model_from_elsewhere_is_asked_by_its_template_if_it_has_one(tmp_path: Path, template: bool):
    (tmp_path / "config.json").write_text("{}")
    if template:
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    config, _ = load_target(str(tmp_path))
    assert config.first_dataset.type == ("chat_template" if template else "completion")
    assert config.model.base_model == str(config.checkpoint.output_folder) == str(tmp_path)
