"""Every key that works says what it means for a run that goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from siredon.config.load import load_config
from siredon.config.resume_kinds import (
    _DECIDE_PLATEAUS,
    _KEYS,
    _SECTIONS,
    collect_compared,
    find_kind,
    kind_in,
    list_working,
)
from siredon.config.schema import Config, key_homes


def config_of(write_config: Any, **keys: Any) -> Config:
    return load_config(str(write_config(**keys)))[0]


def kind_of(config: Config, name: str) -> str:
    return kind_in(config, key_homes()[name])


def test_every_key_that_works_has_a_kind():
    missing = [info.name for info in list_working() if find_kind(info) is None]
    assert not missing, (
        f"say in config/resume_kinds.py what a change of {missing} means for a run that goes on"
    )


def test_the_table_names_sections_and_keys_that_exist():
    assert set(_SECTIONS) <= set(Config.model_fields)
    assert set(_KEYS) | set(_DECIDE_PLATEAUS) <= set(key_homes())


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("logging_steps", "save_steps", "save_total_limit", "output_dir", "wandb_project"), "free"),
        (("eval_steps", "dataloader_num_workers", "dataset_prepared_path", "eval_batch_size"), "free"),
        (("seed", "optimizer", "weight_decay", "lr_scheduler", "warmup_steps", "max_grad_norm"), "fixed"),
        (("adapter", "lora_r", "lora_dropout", "bf16", "load_in_4bit", "tokens"), "fixed"),
        (("datasets", "sequence_len", "sample_packing", "val_set_size", "chat_template"), "data"),
        (("base_model", "model_revision"), "model"),
        (("num_epochs", "max_steps"), "length"),
        (("micro_batch_size", "gradient_accumulation_steps"), "batch"),
        (("learning_rate",), "rate"),
        (("test_datasets", "early_stopping_patience", "metric_for_best_model"), "watched"),
        (("gradient_checkpointing", "attn_implementation", "torch_compile"), "rounding"),
    ],
)
def test_the_kinds_of_keys_that_people_change(write_config: Any, names: tuple[str, ...], kind: str):
    config = config_of(write_config)
    assert {name: kind_of(config, name) for name in names} == dict.fromkeys(names, kind)


def test_keys_beside_which_others_mean_more(write_config: Any):
    assert kind_of(config_of(write_config, lr_scheduler="polynomial"), "learning_rate") == "fixed"
    plateau = {"lr_scheduler": "reduce_lr_on_plateau", "val_set_size": 4}
    assert kind_of(config_of(write_config, **plateau), "eval_steps") == "fixed"


def test_what_is_kept_of_a_config_is_what_is_compared_as_json(write_config: Any):
    config = config_of(write_config, logging_steps=7)
    kept = json.loads(json.dumps(collect_compared(config)))
    assert kept["lr_scheduler"] == "linear"
    assert kept["datasets"][0]["type"] == "chat_template"
    assert not {"logging_steps", "output_dir"} & set(kept)
    assert set(kept) == {info.name for info in list_working() if kind_in(config, info) != "free"}
