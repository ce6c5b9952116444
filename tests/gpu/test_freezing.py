"""On a GPU: rows and blocks that rest do not change by a bit, a merge changes no logit, noise keeps its bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.hardware import probe_hardware

HARDWARE = probe_hardware()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HARDWARE.is_gpu, reason="this machine has no GPU"),
]


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch", "sgd"])
def test_only_named_rows_change_in_bf16(
    write_config: Any, tmp_path: Path, model_folder: Path, optimizer: str
):
    from tests.runs.test_train import config_of, weights_of

    from siredon import pipeline

    keys = {"weight_decay": 0.5, "learning_rate": 1e-1, "bf16": True, "optimizer": optimizer}
    pipeline.train(config_of(write_config(unfrozen_parameters=["lm_head.weight[:100]"], **keys)))
    before = {name: weight.bfloat16() for name, weight in weights_of(model_folder).items()}
    after = weights_of(tmp_path / "out")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model.embed_tokens.weight"}
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(dim=1)
    assert rows[:100].any()
    assert not rows[100:].any()


def test_lisa_keeps_the_resting_block(write_config: Any, tmp_path: Path, model_folder: Path):
    from tests.runs.test_train import config_of, weights_of

    from siredon import pipeline
    from siredon.train.callbacks.lisa import draw_blocks

    keys = {"lisa_n_layers": 1, "lisa_step_interval": 9, "learning_rate": 1e-1, "bf16": True}
    pipeline.train(config_of(write_config(optimizer="adamw_torch_fused", **keys)))
    before = {name: weight.bfloat16() for name, weight in weights_of(model_folder).items()}
    after = weights_of(tmp_path / "out")
    (active,) = draw_blocks(42, 0, 2, 1)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[2] for name in moved if ".layers." in name} == {str(active)}


@pytest.mark.parametrize("in_ram", [False, True])
def test_a_merge_changes_no_logit(in_ram: bool):
    from tests.unit.model.test_relora import IDS, adapt

    from siredon.model.relora import begin_anew_, merge_

    base = build_model().to(HARDWARE.device)
    model = adapt(base).to(HARDWARE.device)
    ids = IDS.to(HARDWARE.device)
    before = model(ids).logits
    merge_(base, in_ram=in_ram)
    begin_anew_(base, seed=1, restart=1)
    assert (model(ids).logits - before).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["magnitude", "random", "reset"])
def test_relora_trains_and_writes_a_whole_model(write_config: Any, tmp_path: Path, method: str):
    from tests.runs.test_train import LORA, config_of, metrics_of
    from transformers import AutoModelForCausalLM

    from siredon import pipeline

    keys = {**LORA, "relora": True, "jagged_restart_steps": 4, "relora_prune_method": method, "bf16": True}
    pipeline.train(config_of(write_config(max_steps=12, save_steps=6, learning_rate=2e-2, **keys)))
    losses = [row["loss"] for row in metrics_of(tmp_path / "out")]
    assert losses[-1] < losses[0] - 0.3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() > 0
    assert (tmp_path / "out" / "checkpoint-6" / "relora.safetensors").is_file()


def test_noise_keeps_its_bound():
    from siredon.model.noise import EmbeddingNoise

    embeddings = torch.nn.Embedding(64, 64, device=HARDWARE.device, dtype=torch.float32)
    noise = EmbeddingNoise(5.0)
    noise.attach_(embeddings)
    positions = torch.tensor([[*range(24), *range(40)]], device=HARDWARE.device)
    plain = embeddings(positions)
    with noise.during(positions, torch.tensor([64], device=HARDWARE.device)):
        change = (embeddings(positions) - plain).abs()
    for part, length in ((change[0, :24], 24), (change[0, 24:], 40)):
        bound = 5.0 / (length * 64) ** 0.5
        assert 0.98 * bound < part.max() <= 1.0001 * bound


def test_ratios_are_those_of_the_cpu():
    from siredon.model.spectrum import measure_ratio

    torch.manual_seed(0)
    matrix = torch.randn(512, 1536)
    assert measure_ratio(matrix.to(HARDWARE.device)) == pytest.approx(measure_ratio(matrix), rel=1e-4)
