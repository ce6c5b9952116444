"""Packing, flattening and grouping through the pipeline's own verbs: the losses of the plain run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import config_of, metrics_of, weights_of

from siredon import pipeline


def numbers_of(folder: Path, name: str) -> list[float]:
    return [row[name] for row in metrics_of(folder) if name in row]


@pytest.mark.parametrize(
    "keys",
    [
        {"sample_packing": True, "multipack_real_batches": False, "micro_batch_size": 2},
        {"eval_sample_packing": True, "eval_batch_size": 1},
        {"eval_sample_packing": True, "eval_batch_size": 2},
        {"eval_sample_packing": True, "eval_batch_size": 7},
        {"batch_flattening": True, "micro_batch_size": 2, "eval_batch_size": 7},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_the_losses_are_those_of_rows_that_are_not_packed(
    write_config: Any, tmp_path: Path, keys: dict[str, Any]
):
    # All training rows are one step, so that its loss does not hang on which of them share a pack.
    same = {"max_steps": 2, "val_set_size": 8, "eval_steps": 1, "save_strategy": "no"}
    plain = write_config("a.yml", **same, gradient_accumulation_steps=16, output_dir=str(tmp_path / "plain"))
    pipeline.train(config_of(plain))
    steps = -(-16 // keys["micro_batch_size"]) if "micro_batch_size" in keys else 16
    together = write_config(
        "b.yml", **same, **keys, gradient_accumulation_steps=steps, output_dir=str(tmp_path / "together")
    )
    pipeline.train(config_of(together))
    for name in ("loss", "eval_loss"):
        wanted, got = numbers_of(tmp_path / "plain", name), numbers_of(tmp_path / "together", name)
        assert len(wanted) > 1
        assert got == pytest.approx(wanted, abs=2e-5)


def test_a_run_in_order_of_length_resumed_in_its_second_epoch_equals_the_uninterrupted_one(
    write_config: Any, tmp_path: Path
):
    # 24 rows in batches of 3 are 8 batches, 4 steps an epoch; the run goes on after step 6.
    keys = {
        "group_by_length": True,
        "micro_batch_size": 3,
        "num_epochs": 2,
        "max_steps": ...,
        "save_steps": 3,
    }
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "whole"))))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-8", ignore_errors=True)
    (tmp_path / "cut/model.safetensors").unlink()
    resumed = write_config(
        "b.yml", **keys, output_dir=str(tmp_path / "cut"), auto_resume_from_checkpoints=True
    )
    pipeline.train(config_of(resumed))
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert numbers_of(tmp_path / "whole", "loss")[6:] == numbers_of(tmp_path / "cut", "loss")[-2:]
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_curriculum_trains_on_the_rows_in_their_order(write_config: Any, tmp_path: Path):
    keys = {
        "shuffle_merged_datasets": False,
        "max_steps": 6,
        "learning_rate": 1e-9,
        "gradient_accumulation_steps": 1,
        "save_strategy": "no",
    }
    order = write_config("a.yml", **keys, curriculum_sampling=True, output_dir=str(tmp_path / "order"))
    pipeline.train(config_of(order))
    pipeline.train(config_of(write_config("b.yml", **keys, output_dir=str(tmp_path / "random"))))
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    alone = []
    for index in range(6):
        path = write_config("c.yml", **{**keys, "max_steps": 1}, output_dir=str(tmp_path / "alone"))
        (tmp_path / "rows.jsonl").write_text(rows[index] + "\n")
        pipeline.train(config_of(path))
        alone += numbers_of(tmp_path / "alone", "loss")
    assert numbers_of(tmp_path / "order", "loss") == pytest.approx(alone, abs=1e-4)
    assert numbers_of(tmp_path / "random", "loss") != pytest.approx(alone, abs=1e-4)
