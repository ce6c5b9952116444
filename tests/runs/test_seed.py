"""`seed` covers every random choice of a run: each, by itself, follows it, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, weights_of

from siredon import pipeline

#: A full run in which nothing is left to chance.
FIXED = {
    "curriculum_sampling": True,
    "shuffle_merged_datasets": False,
    "max_steps": 2,
    "save_strategy": "no",
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
}
CHOICES: dict[str, dict[str, Any]] = {
    "order of rows": {"curriculum_sampling": None},
    "order of rows, over two epochs of packs": {"curriculum_sampling": None, "sample_packing": True},
    "order of a data set": {"entry": {"shuffle": True}},
    "a part of the rows": {"entry": {"shuffle": True, "shards": 3, "shards_idx": 1}},
    "rows by weight": {"entry": {"weight": 0.5}, "curriculum_sampling": None},
    "noise on embeddings": {"neftune_noise_alpha": 5},
    "dropout of the model": {"model_config": {"attention_dropout": 0.5}},
    "weights from scratch": {"reinit_weights": True},
    "the adapter's start": LORA,
    "dropout of the adapter": {**LORA, "lora_dropout": 0.5, "peft_init_lora_weights": "pissa"},
    "which layers train": {"lisa_n_layers": 1, "lisa_step_interval": 1},
    "rounding of steps": {"optimizer": "adamw_bf16_sr", "bf16": "full"},
    "directions of a low-rank optimizer": {
        "optimizer": "apollo_adamw",
        "optim_target_modules": ["mlp"],
    },
    "buffer of a stream": {"streaming": True, "curriculum_sampling": None, "shuffle_merged_datasets": True},
}


def train(write_config: Any, tmp_path: Path, seed: int, name: str, **keys: Any) -> dict[str, torch.Tensor]:
    keys = {**FIXED, **keys}
    entry = keys.pop("entry", {})
    path = write_config(**{key: value for key, value in keys.items() if value is not None}, seed=seed)
    if entry:
        import yaml

        values = yaml.safe_load(path.read_text())
        values["datasets"][0] |= entry
        path.write_text(yaml.safe_dump(values))
    out = tmp_path / name
    text = path.read_text().replace(str(tmp_path / "out"), str(out))
    path.write_text(text.replace(str(tmp_path / "prepared"), str(tmp_path / f"prepared-{name}")))
    torch.rand(seed + len(name))  # What ran before is no matter
    pipeline.train(config_of(path))
    return weights_of(out)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_but_the_choices_follows_the_seed(write_config: Any, tmp_path: Path):
    one, other = (train(write_config, tmp_path, seed, f"out{seed}") for seed in (1, 2))
    assert equal(one, other)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_random_choice_follows_the_seed(write_config: Any, tmp_path: Path, choice: str):
    keys = CHOICES[choice]
    first = train(write_config, tmp_path, 1, "first", **keys)
    assert equal(first, train(write_config, tmp_path, 1, "again", **keys))
    assert not equal(first, train(write_config, tmp_path, 2, "other", **keys))
