"""Whole runs whose loss comes in chunks have the losses of those over logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of

from siredon import pipeline

KEYS = {"max_steps": 6, "learning_rate": 5e-3, "val_set_size": 4, "eval_steps": 3, "log_source_loss": True}


def run_both(write_config: Any, folder: Path, **keys: Any) -> list[list[dict[str, Any]]]:
    found = []
    for name, chunked in (("logits", False), ("chunks", True)):
        path = write_config(
            f"{name}.yml", output_dir=str(folder / name), chunked_cross_entropy=chunked, **KEYS, **keys
        )
        pipeline.train(config_of(path))
        found.append(metrics_of(folder / name))
    return found


@pytest.mark.parametrize(
    "keys",
    [
        {"gradient_accumulation_steps": 2, "micro_batch_size": 2},
        {**LORA, "sample_packing": True, "gradient_checkpointing": True, "lora_dropout": 0.1},
    ],
    ids=["full", "lora, packed, recomputed"],
)
def test_both_have_the_same_losses(
    write_config: Any, tmp_path: Path, keys: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    logits, chunks = run_both(write_config, tmp_path, **keys)
    assert capsys.readouterr().err.count("loss: chunked linear cross-entropy, ") == 1
    assert len(logits) == len(chunks) >= 8
    for one, other in zip(logits, chunks, strict=True):
        names = [name for name in one if "loss" in name or name == "grad_norm"]
        assert names
        for name in names:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name


def test_a_run_goes_on_with_the_other_loss(write_config: Any, tmp_path: Path):
    keys = {"output_dir": str(tmp_path / "out"), "max_steps": 4, "save_steps": 2, **LORA}
    pipeline.train(config_of(write_config("a.yml", **keys)))
    whole = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    again = write_config(
        "b.yml",
        **keys,
        chunked_cross_entropy=True,
        chunked_cross_entropy_num_chunks=2,
        resume_from_checkpoint=str(tmp_path / "out/checkpoint-2"),
    )
    pipeline.train(config_of(again))
    rows = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert rows == pytest.approx(whole, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_two_ranks_have_the_losses_of_one_over_logits(
    write_config: Any, tmp_path: Path, adapter: dict[str, Any]
):
    keys = {**KEYS, "max_steps": 3, "save_strategy": "no", **adapter}
    one = write_config("one.yml", **keys, gradient_accumulation_steps=4, output_dir=str(tmp_path / "one"))
    two = write_config(
        "two.yml",
        **keys,
        gradient_accumulation_steps=2,
        chunked_cross_entropy=True,
        output_dir=str(tmp_path / "two"),
    )
    pipeline.train(config_of(one))
    assert train_on_two_ranks(two).count("loss: chunked linear cross-entropy, ") == 1
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    for name in ("loss", "eval_loss", "grad_norm"):
        found = [[row[name] for row in rows if name in row] for rows in (first, second)]
        assert found[0]
        assert found[1] == pytest.approx(found[0], rel=1e-4)
