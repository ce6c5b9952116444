"""On a GPU: the same losses as on a CPU, packed documents isolated, a whole run with bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.unit.train.steps import largest_difference, random_samples, take_step, true_step

from siredon.config.sections.packing import PackingSection
from siredon.data.pack import build_packs, keep_single
from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]
UNEQUAL = random_samples([(100, 90), (12, 3), (40, 35), (9, 8), (64, 5), (17, 16), (80, 41), (30, 3)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_those_of_the_cpu_in_fp64(write_config: Any, attention: str, packed: bool):
    lengths = np.array([len(sample.input_ids) for sample in UNEQUAL])
    packs = build_packs(lengths, 128, PackingSection()) if packed else keep_single(8)
    truth, wanted = true_step(build_model(), UNEQUAL)
    model = build_model()
    model.set_attn_implementation(attention)
    keys = {"tf32": False, "gradient_accumulation_steps": len(packs)}
    loss, got = take_step(
        model, UNEQUAL, packs, write_config, pad_to=128 if packed else None, hardware=probe_hardware(), **keys
    )
    assert loss == pytest.approx(truth, abs=1e-5)
    assert largest_difference(got, wanted) < 1e-4


def test_a_whole_run_in_bf16_lowers_the_loss(write_config: Any, tmp_path: Path):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    keys = {**LORA, "bf16": "auto", "sample_packing": True, "max_steps": 20, "learning_rate": 2e-2}
    pipeline.train(config_of(write_config(**keys)))
    losses = [row["loss"] for row in metrics_of(tmp_path / "out")]
    assert losses[-1] < losses[0] - 0.3
    assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize("adapter", [False, True])
def test_fp16_trains_with_a_scaled_loss(write_config: Any, tmp_path: Path, adapter: bool):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    keys = {**(LORA if adapter else {}), "bf16": False, "fp16": True, "max_steps": 20}
    pipeline.train(
        config_of(write_config(**keys, learning_rate=2e-2 if adapter else 5e-3, save_strategy="no"))
    )
    rows = metrics_of(tmp_path / "out")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    assert all(row["grad_norm"] < 100 for row in rows[3:])


def test_answers_come_from_the_gpu_and_the_merged_model_agrees(write_config: Any, capsys: Any):
    from tests.runs.test_train import LORA, config_of

    from siredon import pipeline, release
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    config = config_of(write_config(**LORA, bf16="auto", max_steps=4))
    pipeline.train(config)
    release.inference(config, Prompts(("hello",), False, True, Sampling(max_new_tokens=5)))
    assert "tuned model" in capsys.readouterr().out
    release.merge_lora(config)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has one GPU")
def test_two_gpus_give_the_losses_of_one(write_config: Any, tmp_path: Path, capsys: Any):
    from tests.runs.test_ranks import train_on_two_ranks
    from tests.runs.test_train import config_of, metrics_of

    from siredon import pipeline

    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template", "split": "train[:23]"}
    keys = {"datasets": [rows], "max_steps": 4, "val_set_size": 3, "eval_steps": 2, "save_strategy": "no"}
    one = write_config("one.yml", **keys, gradient_accumulation_steps=4, output_dir=str(tmp_path / "one"))
    two = write_config("two.yml", **keys, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"))
    pipeline.train(config_of(one))
    assert "this machine has" in capsys.readouterr().err
    train_on_two_ranks(two)
    first, second = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    for name in ("loss", "eval_loss"):
        pairs = zip(
            [r[name] for r in first if name in r], [r[name] for r in second if name in r], strict=True
        )
        assert all(abs(a - b) < 1e-3 for a, b in pairs)
