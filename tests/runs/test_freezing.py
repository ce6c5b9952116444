"""What trains and what stays: rows, blocks, Spectrum, LISA, ReLoRA and NEFTune, from YAML to weights on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import config_of, metrics_of, weights_of

from siredon import pipeline, release
from siredon.errors import CheckpointError, ModelError
from siredon.train.callbacks.lisa import draw_blocks

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
RELORA = {**LORA, "relora": True, "jagged_restart_steps": 2, "learning_rate": 2e-2}
#: Everything that moves weights beside gradients.
HARSH = {"weight_decay": 0.5, "learning_rate": 1e-2, "save_strategy": "no"}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def start(model_folder: Path) -> Tensors:
    """The tiny model's weights; its embeddings and head are one tensor."""
    return weights_of(model_folder)


@pytest.fixture(scope="module")
def untied_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untied")
    build_model(len(tokenizer), tied=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(before: Tensors, after: Tensors) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def train(write_config: Callable[..., Path], folder: Path, **keys: Any) -> Tensors:
    pipeline.train(config_of(write_config(f"{folder.name}.yml", output_dir=str(folder), **keys)))
    return weights_of(folder)


def resume(write_config: Callable[..., Path], whole: Path, step: int, **keys: Any) -> Tensors:
    """Goes on from the checkpoint at `step` of a finished run, of which all that came later is forgotten."""
    folder = whole.with_name(f"{whole.name}-{step}")
    shutil.copytree(whole, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.partition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return train(write_config, folder, auto_resume_from_checkpoints=True, **keys)


# Names and rows


def test_only_the_rows_that_are_named_change_by_a_bit(write_config: Any, tmp_path: Path, untied_folder: Path):
    before = weights_of(untied_folder)
    after = train(
        write_config,
        tmp_path / "out",
        base_model=str(untied_folder),
        unfrozen_parameters=["model.embed_tokens.weight$[300:]", "model.layers.1.mlp", "lm_head"],
        **HARSH,
    )
    names = {f"model.layers.1.mlp.{part}_proj.weight" for part in ("up", "gate", "down")}
    assert changed(before, after) == {"model.embed_tokens.weight", "lm_head.weight", *names}
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(dim=1)
    assert not rows[:300].any()
    assert rows[300:].any()


def test_a_tied_weight_goes_by_both_names_and_keeps_its_other_rows(
    write_config: Any, tmp_path: Path, start: Tensors
):
    keys = {"unfrozen_parameters": ["^lm_head.weight$[:100]", "^model.embed_tokens.weight$[200]"], **HARSH}
    after = train(write_config, tmp_path / "out", **keys)
    assert changed(start, after) == {"model.embed_tokens.weight"}
    rows = (start["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(dim=1)
    # Of the head every row learns, at least what it is not
    assert rows[:100].all()
    assert rows[200]
    assert not rows[100:200].any()
    assert not rows[201:].any()


@pytest.mark.parametrize(
    ("keys", "message", "fix"),
    [
        ({"unfrozen_parameters": ["layers.1"]}, "matches no weight", "model.layers.1."),
        ({"unfrozen_parameters": ["model.layerz.1.mlp.up_proj.weight"]}, "matches no weight", "Did you mean"),
        ({"unfrozen_parameters": ["model.embed_tokens[:9999]"]}, "has 512 rows", "[:512]"),
        ({"freeze_layers": "1-2"}, "no block 2", "0 to 1"),
        ({"lisa_n_layers": 3, "lisa_step_interval": 1}, "has 2 layers", "Lower it"),
        (
            {"lisa_n_layers": 1, "lisa_step_interval": 1, "lisa_layers_attribute": "transformer.h"},
            "is no list of layers",
            "model.layers",
        ),
        (
            {**RELORA, "lora_target_linear": False, "lora_target_modules": ["embed_tokens", "q_proj"]},
            "merges linear layers only",
            "lora_target_modules",
        ),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    write_config: Any, untied_folder: Path, keys: dict[str, Any], message: str, fix: str
):
    with pytest.raises(ModelError, match=message) as raised:
        pipeline.train(config_of(write_config(base_model=str(untied_folder), **keys)))
    assert fix in raised.value.fix


def test_frozen_blocks_stay_and_the_others_learn(write_config: Any, tmp_path: Path, start: Tensors):
    after = train(write_config, tmp_path / "out", freeze_layers=0, **HARSH)
    expected = {name for name in start if not name.startswith("model.layers.0.")}
    assert changed(start, after) == expected


# Spectrum


def test_spectrum_trains_the_best_matrix_of_each_kind_and_measures_once(
    write_config: Any, tmp_path: Path, start: Tensors, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path / "cache"))
    keys = {
        "plugins": ["axolotl.integrations.spectrum.SpectrumPlugin"],
        "spectrum_model_name": "some/model",
        **HARSH,
    }
    after = train(write_config, tmp_path / "first", **keys)
    said = capsys.readouterr().err
    assert "measuring 14 matrices" in said
    assert "model.layers.*.mlp.up_proj.weight: 1 of 2 trained" in said
    assert "`spectrum_model_name: some/model` is not needed" in said
    moved = changed(start, after)
    kinds = {name.replace(".0.", ".*.").replace(".1.", ".*.") for name in moved}
    assert "model.embed_tokens.weight" in moved
    assert len(moved) == len(kinds) == 8
    again = train(write_config, tmp_path / "second", **keys)
    assert "measuring" not in capsys.readouterr().err
    assert changed(after, again) == set()


# LISA


def test_lisa_trains_the_blocks_of_its_turns_and_resumes_exactly(
    write_config: Any, tmp_path: Path, start: Tensors
):
    seed = next(s for s in range(99) if [draw_blocks(s, p, 2, 1) for p in (0, 1, 2)] == [{1}, {0}, {1}])
    keys = {
        "lisa_n_layers": 1,
        "lisa_step_interval": 2,
        "seed": seed,
        **HARSH,
        "save_strategy": ...,
        "save_steps": 1,
        "save_total_limit": 5,
        "max_steps": 5,
    }
    after = train(write_config, tmp_path / "whole", **keys)
    assert changed(start, after) == set(start)
    saved = {step: weights_of(tmp_path / "whole" / f"checkpoint-{step}") for step in range(1, 6)}
    for step, number in ((1, 1), (2, 1), (3, 0), (4, 0), (5, 1)):
        moved = changed(saved.get(step - 1, start), saved[step])
        blocks = {name.split(".")[2] for name in moved if ".layers." in name}
        assert blocks == {str(number)}, step
        assert {"model.embed_tokens.weight", "model.norm.weight"} <= moved
    state = torch.load(tmp_path / "whole" / "checkpoint-4" / "optimizer.pt")["state"]
    # Nothing of the frozen block is kept: 9 weights of one block, embeddings, last norm
    assert len(state) == 11
    assert changed(after, resume(write_config, tmp_path / "whole", 3, **keys)) == set()


@pytest.mark.long
def test_lisa_takes_the_same_steps_on_two_ranks(write_config: Any, tmp_path: Path):
    rows = {"path": str(tmp_path / "rows.jsonl"), "type": "chat_template", "split": "train[:20]"}
    keys = {"lisa_n_layers": 1, "lisa_step_interval": 1, "datasets": [rows], "save_strategy": "no"}
    one = train(write_config, tmp_path / "one", gradient_accumulation_steps=4, **keys)
    path = write_config("two.yml", gradient_accumulation_steps=2, output_dir=str(tmp_path / "two"), **keys)
    train_on_two_ranks(path)
    two = weights_of(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4


# ReLoRA


def test_relora_writes_a_whole_model_and_resumes_exactly(
    write_config: Any, tmp_path: Path, start: Tensors, capsys: Any
):
    keys = {**RELORA, "save_steps": 1, "max_steps": 5, "lora_dropout": 0.1, "relora_prune_method": "random"}
    after = train(write_config, tmp_path / "whole", **keys)
    assert capsys.readouterr().err.count("ReLoRA: merged after step") == 2
    moved = changed(start, after)
    assert moved == {name for name in start if "_proj" in name}
    assert min(torch.linalg.matrix_rank(after[name] - start[name]).item() for name in moved) > 4
    # Whether cut in the middle of a turn, or right after a merge
    for step in (2, 3):
        assert changed(after, resume(write_config, tmp_path / "whole", step, **keys)) == set()
    config = config_of(write_config(**keys, output_dir=str(tmp_path / "whole")))
    with pytest.raises(CheckpointError, match="holds a whole model"):
        release.merge_lora(config)


def test_a_merge_changes_no_logit_and_what_is_written_has_the_same(write_config: Any, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    from siredon.hardware import probe_hardware
    from siredon.serve.load import load_base, load_tuned

    keys = {
        **RELORA,
        "max_steps": 4,
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
        "save_strategy": "no",
    }
    train(write_config, tmp_path / "out", **keys)
    config = config_of(write_config(**keys))
    hardware = probe_hardware()
    tuned = load_tuned(config, hardware)
    base = load_base(config, hardware, tuned)
    ids = torch.arange(20).reshape(1, 20)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain(ids).logits, tuned.model(ids).logits)
    assert (base.model(ids).logits - tuned.model(ids).logits).abs().max() > 1e-2


def test_a_checkpoint_without_its_base_is_refused(write_config: Any, tmp_path: Path):
    keys = {**RELORA, "max_steps": 3, "save_steps": 2}
    train(write_config, tmp_path / "out", **keys)
    shutil.rmtree(tmp_path / "out" / "checkpoint-3")
    (tmp_path / "out" / "checkpoint-2" / "relora.safetensors").unlink()
    torn = str(tmp_path / "out" / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"relora\.safetensors is missing"):
        train(write_config, tmp_path / "out", resume_from_checkpoint=torn, **keys)


def test_relora_ends_with_the_base_of_the_best_checkpoint(write_config: Any, tmp_path: Path):
    # So long a step is one to a worse model: the best validation is the first, before the merge after step 2
    keys = {**RELORA, "learning_rate": 0.3, "lr_scheduler": "constant", "warmup_steps": 0, "val_set_size": 4}
    keys |= {"save_steps": 1, "eval_steps": 1, "max_grad_norm": 0}
    once = train(write_config, tmp_path / "once", max_steps=1, **keys)
    after = train(
        write_config,
        tmp_path / "best",
        max_steps=4,
        load_best_model_at_end=True,
        jagged_restart_warmup_steps=0,
        **keys,
    )
    assert (
        min(rows := [row["eval_loss"] for row in metrics_of(tmp_path / "best") if "eval_loss" in row][1:])
        == rows[0]
    )
    assert changed(once, after) == set()


# NEFTune


def test_noise_is_in_training_alone_and_resumes_exactly(write_config: Any, tmp_path: Path):
    keys = {"val_set_size": 4, "eval_steps": 1, "save_steps": 2, "sample_packing": True}
    plain = train(write_config, tmp_path / "plain", **keys)
    noisy = train(write_config, tmp_path / "noisy", neftune_noise_alpha=50, **keys)
    first, second = (metrics_of(tmp_path / name) for name in ("plain", "noisy"))
    # Validation before the first step is on the same weights, and without noise
    assert first[0]["eval_loss"] == second[0]["eval_loss"]
    assert first[1]["loss"] != second[1]["loss"]
    assert changed(plain, noisy) == set(plain)
    again = resume(write_config, tmp_path / "noisy", 2, neftune_noise_alpha=50, **keys)
    assert changed(noisy, again) == set()
