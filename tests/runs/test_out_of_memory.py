"""The longest batch leaves no trace; what does not fit ends with numbers and with changes that fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.runs.pair_runs import pair_writer
from tests.runs.test_kto import judged_rows
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of
from tests.runs.test_watching import same, untimed

from siredon import pipeline
from siredon.errors import TrainingError
from siredon.hardware import is_out_of_memory
from siredon.train.memory_guard import MemoryGuardedTrainer, cut_rows, take_tokens
from siredon.train.pair_trainer import PairTrainer
from siredon.train.trainer import SiredonTrainer

FREE = {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"}
DROPS = {"model_config": {"attention_dropout": 0.2}}
KEYS = {
    "max_steps": 4,
    "micro_batch_size": 2,
    "val_set_size": 4,
    "eval_steps": 2,
    "save_steps": 2,
    "num_epochs": 2,
}


@pytest.mark.parametrize(
    "changes",
    [
        {**LORA, "lora_dropout": 0.2, "sample_packing": True, "sequence_len": 128},
        {**DROPS, "neftune_noise_alpha": 5, "log_source_loss": True, **FREE},
    ],
    ids=["lora", "full"],
)  # fmt: skip
def test_a_probe_leaves_no_trace(write_config: Any, tmp_path: Path, changes: Any, capsys: Any):
    keys = {**KEYS, **changes}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    assert "longest batch" not in capsys.readouterr().err
    tried = {**keys, "probe_longest_batch": True}
    pipeline.train(config_of(write_config("b.yml", **tried)))
    assert "longest batch: 2 x " in capsys.readouterr().err
    out = tmp_path / "out"
    assert same(tmp_path / "plain", out)
    assert untimed(tmp_path / "plain") == untimed(out)
    # Resumed, with the optimizer's state there already
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink(missing_ok=True)
    (out / "adapter_model.safetensors").unlink(missing_ok=True)
    pipeline.train(config_of(write_config("b.yml", **tried, auto_resume_from_checkpoints=True)))
    assert same(tmp_path / "plain", out)
    assert untimed(tmp_path / "plain") == untimed(out)


class Shortage:
    """Lets one backward pass of `SiredonTrainer` fail, once the gradients are there, as PyTorch's allocator does."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        whole, self.calls = SiredonTrainer.compute_loss, 0

        def compute_loss(trainer: Any, *args: Any, **options: Any) -> Any:
            loss = whole(trainer, *args, **options)
            self.calls += 1
            if self.calls == at:
                loss.register_hook(self.fail)
            return loss

        patch.setattr(SiredonTrainer, "compute_loss", compute_loss)

    def fail(self, gradient: torch.Tensor) -> None:
        message = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        raise RuntimeError(
            message + "you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)"
        )


def test_a_run_that_runs_out_saves_its_last_step_and_goes_on_to_the_same_weights(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = {**LORA, **KEYS, "lora_dropout": 0.2, "save_strategy": "epoch", "save_steps": ..., "max_steps": 8}
    keys |= {"num_epochs": 2, "logging_steps": 3, "eval_steps": 4}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    config = config_of(write_config("b.yml", **keys, auto_resume_from_checkpoints=True))
    for at, step in (
        (4, 1),
        (8, 4),
    ):  # within the first epoch; the first batch of step 6, after the next start
        with monkeypatch.context() as patch:
            Shortage(patch, at)
            with pytest.raises(TrainingError) as caught:
                pipeline.train(config)
        message = str(caught.value)
        assert "when 2.0 more were asked for" in message
        assert f"step {step:,} is saved in {tmp_path}/out/checkpoint-{step}" in message
        assert "micro_batch_size: 1, gradient_accumulation_steps: 4" in message
        assert "gradient_checkpointing: true" in message
    pipeline.train(config)
    assert same(tmp_path / "plain", tmp_path / "out")
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "out")


@pytest.mark.parametrize("method", ["aot", "kto"])
def test_what_looks_at_a_step_before_its_passes_saves_the_last_one_too(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    write = pair_writer(write_config, tmp_path)
    keys: dict[str, Any] = {"dpo_loss_type": ["aot"]}
    if method == "kto":
        rows = tmp_path / "judged.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in judged_rows()))
        keys = {"rl": "kto", "datasets": [{"path": str(rows), "type": "chat_template.default"}]}
    keys |= {**LORA, "max_steps": 4, "micro_batch_size": 2, "save_strategy": "epoch"}
    pipeline.train(config_of(write("plain", **keys)))
    config = config_of(write("cut", **keys, auto_resume_from_checkpoints=True))
    whole = PairTrainer._sum_samples

    def run_out(trainer: Any, *args: Any, **options: Any) -> Any:
        if trainer.state.global_step == 2 and not torch.is_grad_enabled() and trainer.failed is None:
            Shortage.fail(None, torch.zeros(()))  # type: ignore[arg-type]
        return whole(trainer, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "_sum_samples", run_out)
        with pytest.raises(TrainingError) as caught:
            pipeline.train(config)
    message = str(caught.value)
    assert "when 2.0 more were asked for" in message
    assert "a batch of step 3, 2 x " in message
    assert f"step 2 is saved in {tmp_path}/cut/checkpoint-2" in message
    pipeline.train(config)
    assert same(tmp_path / "plain", tmp_path / "cut")
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "cut")


def test_a_checkpoint_of_an_earlier_run_is_not_taken_for_the_last_step(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = {**LORA, **KEYS, "max_steps": 2, "eval_steps": ..., "val_set_size": ...}
    pipeline.train(config_of(write_config("a.yml", **keys | {"save_steps": 1})))
    weights = tmp_path / "out" / "checkpoint-1" / "adapter_model.safetensors"
    earlier = weights.read_bytes()
    Shortage(monkeypatch, 4)
    with pytest.raises(TrainingError, match="step 1 is saved in"):
        pipeline.train(config_of(write_config("b.yml", **keys, seed=7)))
    assert weights.read_bytes() != earlier


def test_a_step_that_is_made_again_row_by_row_is_the_same_step(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    keys = {**KEYS, "log_source_loss": True}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    Shortage(monkeypatch, 4)
    pipeline.train(config_of(write_config("b.yml", **keys, on_out_of_memory="retry")))
    assert "out of memory in step 2" in capsys.readouterr().err
    plain, out = weights_of(tmp_path / "plain"), weights_of(tmp_path / "out")
    assert max((plain[name] - out[name]).abs().max() for name in plain) < 1e-5
    for one, other in zip(metrics_of(tmp_path / "plain"), metrics_of(tmp_path / "out"), strict=True):
        for name in ("loss", "eval_loss", "loss/rows"):
            assert one.get(name, 0) == pytest.approx(other.get(name, 0), rel=1e-5)


def test_a_batch_that_does_not_fit_is_refused_with_changes_of_which_each_fits(
    write_config: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    rows = [{"path": "_synthetic", "type": "_synthetic", "length": 32, "sequence_length": 64}]
    keys = {"datasets": rows, "sequence_len": 64, "max_steps": 1, "save_strategy": "no"}
    keys |= {"excess_length_strategy": "truncate"}
    keys |= {"probe_longest_batch": True, "micro_batch_size": 32, "gradient_accumulation_steps": 1}
    whole = SiredonTrainer.compute_loss

    def compute_loss(trainer: Any, model: Any, inputs: Any, **options: Any) -> Any:
        # What the allocator of a machine with less memory says: how much it keeps depends on processor and load
        if inputs["input_ids"].numel() > 1100:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes"
            )
        return whole(trainer, model, inputs, **options)

    monkeypatch.setattr(SiredonTrainer, "compute_loss", compute_loss)
    with pytest.raises(TrainingError) as caught:
        pipeline.train(config_of(write_config("a.yml", **keys)))
    refused = str(caught.value)
    assert "out of memory: the longest batch, 32 x 64 tokens," in refused
    assert "more were asked for" in refused
    assert "Any of these fits" in refused
    changes = re.findall(r"^    (.+?)  # [\d.]+ GiB, measured", refused, re.MULTILINE)
    found = [yaml.safe_load(f"{{{change}}}") for change in changes]
    assert found == [{"micro_batch_size": 16, "gradient_accumulation_steps": 2}]
    # The others that are named are estimates; of what is tried, this fits too
    found.append({"sequence_len": 32})
    capsys.readouterr()
    for index, one in enumerate(found):
        pipeline.train(config_of(write_config(f"{index}.yml", **{**keys, **one})))
        assert "longest batch: " in capsys.readouterr().err


def test_rows_and_tokens_are_cut_out_of_batches_of_both_layouts():
    from siredon.data.collate import Collator
    from siredon.data.types import Sample

    def sample(*ids: int) -> Any:
        import numpy as np

        return Sample(np.array(ids, dtype=np.int32), np.array([-100, *ids[1:]], dtype=np.int32))

    packs = [(sample(1, 2), sample(3, 4, 5)), (sample(6, 7, 8),)]
    for flatten in (False, True):
        batch = Collator(0, multiple=8, flatten=flatten)(packs)
        one, two = cut_rows(batch)
        assert one["input_ids"][0, :5].tolist() == [1, 2, 3, 4, 5]
        assert one["position_ids"][0, :5].tolist() == [0, 1, 0, 1, 2]
        assert two["input_ids"][0, :3].tolist() == [6, 7, 8]
        assert two["labels"][0, :3].tolist() == [-100, 7, 8]
        assert [one["num_tokens"].tolist(), two["num_tokens"].tolist()] == [[5], [3]]
        short = take_tokens(batch, 3)
        assert short["input_ids"].numel() == 6
        assert short["num_tokens"].sum() == 6
        assert short["num_tokens"].tolist() == ([5, 1] if flatten else [3, 3])


def test_a_row_of_pairs_keeps_the_margins_of_its_own():
    ids = torch.arange(8).view(2, 4)
    batch: Any = {"input_ids": ids, "labels": ids, "position_ids": ids, "num_tokens": torch.tensor([4, 4])}
    batch |= {"samples": torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]]), "packs": torch.tensor([0, 0, 1, 1])}
    batch["margins"] = torch.tensor([0.5, 0.5, 2.0, 2.0])
    assert [row["margins"].tolist() for row in cut_rows(batch)] == [[0.5, 0.5], [2.0, 2.0]]
    assert take_tokens(batch, 2)["margins"].tolist() == [0.5, 0.5, 2.0, 2.0]


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert issubclass(SiredonTrainer, MemoryGuardedTrainer)
