"""Memory and number formats, from YAML to weights that are read again."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline

RUN = {"max_steps": 4, "save_strategy": "no"}


def train(write_config: Any, folder: Path, **keys: Any) -> dict[str, torch.Tensor]:
    pipeline.train(config_of(write_config(**{**RUN, **keys}, output_dir=str(folder))))
    return weights_of(folder)


def test_a_run_that_recomputes_and_parks_ends_with_the_same_weights(
    write_config: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    from siredon.model import offload

    plain = train(write_config, tmp_path / "plain", **LORA, lora_dropout=0.1)
    assert "memory:" not in capsys.readouterr().err
    keys = {**LORA, "lora_dropout": 0.1, "gradient_checkpointing": 0.5, "activation_offloading": "disk"}
    monkeypatch.setattr(offload.Saver.__init__, "__defaults__", (1,))  # a tiny model has small tensors only
    saved = train(write_config, tmp_path / "saved", **keys)
    said = capsys.readouterr().err
    assert "memory: 1 of 2 layers recomputed; what is kept waits on disk\n" in said
    assert "attention: sdpa\n" in said
    assert plain.keys() == saved.keys()
    assert all((plain[name] - saved[name]).abs().max() < 1e-5 for name in plain)
    gc.collect()
    assert not list((tmp_path / "saved").glob("activations*"))


@pytest.mark.parametrize("keys", [{"activation_offloading": True}, {"layer_offloading": True}])
def test_what_has_no_effect_on_a_cpu_is_said(write_config: Any, tmp_path: Path, capsys: Any, keys: Any):
    train(write_config, tmp_path / "out", **LORA, **keys, gradient_checkpointing=True, max_steps=1)
    said = capsys.readouterr().err
    assert f"warning: `{next(iter(keys))}` has no effect: this run computes on the CPU" in said
    assert "memory: every layer recomputed\n" in said


def test_a_pure_format_is_that_of_the_adapter_and_the_optimizer_also_after_a_resume(
    write_config: Any, tmp_path: Path, capsys: Any
):
    keys = {**LORA, "bfloat16": True, "bf16": ..., "lora_dropout": 0.1, "save_strategy": ..., "save_steps": 2}
    whole = train(write_config, tmp_path / "whole", **keys)
    assert "everything in bfloat16" in capsys.readouterr().err
    train(write_config, tmp_path / "cut", **keys)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    cut = train(write_config, tmp_path / "cut", **keys, auto_resume_from_checkpoints=True)
    assert "going on from" in capsys.readouterr().err
    assert {value.dtype for value in whole.values()} == {torch.bfloat16}
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    state = torch.load(tmp_path / "cut" / "checkpoint-4" / "optimizer.pt")["state"]
    assert {entry["exp_avg"].dtype for entry in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("formats", [{"bf16": True}, {"bf16": "full"}], ids=["autocast", "pure"])
def test_norms_stay_in_fp32_and_the_model_is_read_again(
    write_config: Any, tmp_path: Path, capsys: Any, formats: dict[str, Any]
):
    from transformers import AutoModelForCausalLM

    weights = train(write_config, tmp_path / "out", **formats, fp32_norms=True, learning_rate=5e-3)
    assert "5 norms in float32" in capsys.readouterr().err
    for name, value in weights.items():
        assert value.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
    losses = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert losses[-1] < losses[0]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    again(input_ids=torch.arange(8)[None])


def test_norms_that_are_not_there_are_named(write_config: Any, tmp_path: Path):
    from siredon.errors import ModelError

    with pytest.raises(ModelError, match="no layer whose class is called BatchNorm") as caught:
        train(write_config, tmp_path / "out", bf16=True, fp32_norms=True, fp32_norm_classes=["BatchNorm"])
    assert "LlamaRMSNorm" in caught.value.fix


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_run_ends_with_the_same_weights_under_the_same_names(
    write_config: Any, tmp_path: Path, capsys: Any
):
    keys = {"sample_packing": True, "val_set_size": 4, "evals_per_epoch": 1, "max_steps": 2}
    plain = train(write_config, tmp_path / "plain", **keys)
    torch.compiler.reset()
    compiling = {"torch_compile": True, "torch_compile_backend": "eager", "gradient_checkpointing": True}
    compiled = train(write_config, tmp_path / "compiled", **keys, **compiling)
    assert "memory: every layer recomputed; 2 layers compiled by eager\n" in capsys.readouterr().err
    assert plain.keys() == compiled.keys()
    assert all((plain[name] - compiled[name]).abs().max() < 1e-5 for name in plain)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_run_compiled_by_inductor_ends_with_the_same_weights(write_config: Any, tmp_path: Path):
    keys = {"sample_packing": True, "max_steps": 3}
    plain = train(write_config, tmp_path / "plain", **keys)
    torch.compiler.reset()
    compiled = train(write_config, tmp_path / "compiled", **keys, torch_compile=True)
    assert all((plain[name] - compiled[name]).abs().max() < 1e-4 for name in plain)


def test_a_cpu_says_that_what_is_kept_has_nowhere_to_go(
    write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    keys = {"max_steps": 1, "gradient_checkpointing": True}
    plain = train(write_config, tmp_path / "plain", **keys)
    kept = train(write_config, tmp_path / "kept", **keys, selective_checkpointing={"offload": True})
    said = capsys.readouterr().err
    assert "`selective_checkpointing.offload` has no effect: this run computes on the CPU" in said
    assert "every layer recomputed, but for attention in 2 of them\n" in said
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


@pytest.mark.parametrize("name", ["flex_attention", "flash_attention_2", "xformers"])
def test_attention_that_needs_a_gpu_is_refused_with_the_reason(name: str):
    from siredon.config.sections.attention import AttentionSection
    from siredon.errors import ModelError
    from siredon.hardware import Hardware
    from siredon.model.attention import check_attention
    from siredon.model.precision import Precision

    section = AttentionSection(attn_implementation=name)
    cpu = Hardware("cpu", "test", 1, True, False, 1)
    with pytest.raises(ModelError, match=f"`attn_implementation: {name}` needs a GPU, as") as caught:
        check_attention(section, Precision(torch.bfloat16, "bf16", False), cpu)
    assert "`attn_implementation: sdpa`" in caught.value.fix


@pytest.mark.long
def test_two_ranks_that_recompute_park_and_compile_have_the_losses_of_one_that_keeps_everything(
    write_config: Any, tmp_path: Path
):
    from tests.runs.test_ranks import train_on_two_ranks

    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template", "split": "train[:24]"}
    keys = {**RUN, **LORA, "datasets": [rows], "learning_rate": 1e-2}
    saving = {
        "gradient_checkpointing": 0.5,
        "activation_offloading": "disk",
        "torch_compile": True,
        "torch_compile_backend": "eager",
    }
    train(write_config, tmp_path / "one", **keys, gradient_accumulation_steps=4)
    two = write_config(
        "two.yml", **keys, **saving, gradient_accumulation_steps=2, output_dir=str(tmp_path / "two")
    )
    assert "1 of 2 layers recomputed; what is kept waits on disk; 2 layers compiled" in train_on_two_ranks(
        two
    )
    losses = [[row["loss"] for row in metrics_of(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert not list((tmp_path / "two").glob("activations*"))
