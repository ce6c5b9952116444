"""Two data sets, mixed by weight: the plan is kept, a resumed run is the same, and each has its own loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import ROOT
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.data.collate import MixedDataset
from siredon.data.prepare_run import prepare_run
from siredon.data.types import IGNORE, Sample
from siredon.train.sampler import MixedSampler

TIMING = ("tokens_per_second", "peak_memory_gib", "eval_runtime")


def mixed_keys(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    """Two data sets of 20 and 12 rows; an epoch has 20 and 10 of them, or 24 and 12."""
    rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()
    entries = []
    for name, chosen, weight in (("long", rows[:20], 2), ("short", rows[20:32], 1)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(chosen) + "\n")
        entries.append({"path": str(path), "type": "chat_template", "weight": weight})
    return {
        "datasets": entries,
        "mix_strategy": "first_exhausted",
        "log_source_loss": True,
        "max_steps": ...,
        "num_epochs": 3,
        "save_strategy": "no",
        **keys,
    }


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMING) and "per_second" not in key}
        for row in metrics_of(folder)
    ]


def source_losses(model_folder: Path, samples: Iterable[Sample]) -> dict[int, float]:
    """Mean loss over the targets of each data set, one sample at a time in fp64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder).double().eval()
    sums: dict[int, list[float]] = {}
    for sample in samples:
        labels = torch.from_numpy(sample.labels.astype("int64"))
        with torch.no_grad():
            logits = model(torch.from_numpy(sample.input_ids.astype("int64"))[None], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[0, :-1], labels[1:], ignore_index=IGNORE, reduction="sum"
        )
        entry = sums.setdefault(sample.source, [0.0, 0.0])
        entry[0] += loss.item()
        entry[1] += int((labels[1:] != IGNORE).sum())
    return {source: total / count for source, (total, count) in sums.items()}


@pytest.mark.parametrize(
    "keys",
    [
        {"micro_batch_size": 2, "gradient_accumulation_steps": 3},
        {"sample_packing": True, "micro_batch_size": 1, "gradient_accumulation_steps": 2},
        {"sample_packing": True, "micro_batch_size": 2, "multipack_real_batches": False},
        {"group_by_length": True, "micro_batch_size": 4},
    ],
    ids=["rows", "packed", "end to end", "by length"],
)
def test_steps_are_those_planned_and_each_loss_is_that_of_its_data_set(
    write_config: Any, tmp_path: Path, model_folder: Path, tokenizer: Any, keys: dict[str, Any]
):
    path = write_config(
        **mixed_keys(tmp_path, **keys, learning_rate=1e-12, logging_steps=2, mix_strategy="all_exhausted")
    )
    config = config_of(path)
    pipeline.train(config)
    # The plan, from the packs of each epoch alone
    train = prepare_run(config, tokenizer).train
    assert isinstance(train, MixedDataset)
    micro, accumulation = config.batch.micro_batch_size, config.batch.gradient_accumulation_steps
    per_step = micro * accumulation
    steps: list[list[int]] = []
    for epoch in range(3):
        size = micro if config.packing.group_by_length else None
        order = list(MixedSampler(train, size, config.batch.seed, lambda epoch=epoch: epoch))
        steps += [order[start : start + per_step] for start in range(0, len(order), per_step)]
    rows = [row for row in metrics_of(tmp_path / "out") if "loss" in row]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["finished"]["num_steps"] == record["num_steps"] == len(steps)
    trained = [sample for step in steps for index in step for sample in train[index]]
    assert [sum(sample.source == number for sample in trained) for number in (0, 1)] == [72, 36]
    assert record["finished"]["num_tokens"] == sum(len(sample.input_ids) for sample in trained)
    # Each log, from the samples of its steps
    done = 0
    for row in rows:
        window = [train[index] for step in steps[done : row["step"]] for index in step]
        wanted = source_losses(model_folder, (sample for pack in window for sample in pack))
        done = row["step"]
        found = {name: value for name, value in row.items() if name.startswith("loss/")}
        names = ("loss/long.jsonl", "loss/short.jsonl")
        assert found == pytest.approx({names[number]: wanted[number] for number in wanted}, abs=2e-5)
    assert {row["step"] for row in rows} >= {1, 2, 4}


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_a_resumed_run_equals_the_uninterrupted_one(write_config: Any, tmp_path: Path, packed: bool):
    keys = mixed_keys(tmp_path, sample_packing=packed, val_set_size=4, save_strategy="steps")
    keys |= {"gradient_accumulation_steps": 1 if packed else 4, "evals_per_epoch": 1, "save_steps": 1}
    keys |= {"save_total_limit": 100}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "whole"))))
    whole = lines_of(tmp_path / "whole")
    last = whole[-1]["step"]
    # Near the end of the second epoch, and at its very end
    for stop in (2 * last // 3 - 1, 2 * last // 3):
        cut = tmp_path / f"cut{stop}"
        shutil.copytree(tmp_path / "whole", cut)
        for step in range(stop + 1, last + 1):
            shutil.rmtree(cut / f"checkpoint-{step}")
        (cut / "model.safetensors").unlink()
        resumed = write_config("b.yml", **keys, output_dir=str(cut), auto_resume_from_checkpoints=True)
        pipeline.train(config_of(resumed))
        assert lines_of(cut) == whole
        ours, theirs = weights_of(cut), weights_of(tmp_path / "whole")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_looking_at_the_losses_changes_no_weight(write_config: Any, tmp_path: Path):
    for name, asked in (("with", True), ("without", False)):
        keys = mixed_keys(tmp_path, sample_packing=True, num_epochs=1, log_source_loss=asked)
        pipeline.train(config_of(write_config(**keys, output_dir=str(tmp_path / name))))
    ours, theirs = weights_of(tmp_path / "with"), weights_of(tmp_path / "without")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("loss/long.jsonl" in row for row in metrics_of(tmp_path / "with"))
    assert not any(key.startswith("loss/") for row in metrics_of(tmp_path / "without") for key in row)


def test_losses_are_logged_of_data_sets_that_stand_one_behind_the_other(write_config: Any, tmp_path: Path):
    keys = mixed_keys(tmp_path, mix_strategy="concatenate", num_epochs=1, gradient_accumulation_steps=32)
    pipeline.train(config_of(write_config(**keys)))
    row = metrics_of(tmp_path / "out")[0]
    first, second = row["loss/long.jsonl"], row["loss/short.jsonl"]
    assert min(first, second) < row["loss"] < max(first, second)


@pytest.mark.long
def test_two_ranks_log_the_losses_of_one(write_config: Any, tmp_path: Path):
    keys = mixed_keys(tmp_path, num_epochs=2, logging_steps=2)
    one = write_config("one.yml", **keys, gradient_accumulation_steps=4, output_dir=str(tmp_path / "one"))
    two = write_config("two.yml", **keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"))
    pipeline.train(config_of(one))
    train_on_two_ranks(two)
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(first) == len(second) > 3
    for a, b in zip(first, second, strict=True):
        for name in ("step", "loss", "loss/long.jsonl", "loss/short.jsonl"):
            assert a[name] == pytest.approx(b[name], abs=1e-4)
