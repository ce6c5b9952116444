"""Weights in few bits under an adapter, from YAML to merged model: trained, validated, resumed, asked, merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline, release
from siredon.hardware import probe_hardware
from siredon.serve.load import load_tuned

QLORA = {**LORA, "adapter": "qlora", "load_in_4bit": True}
#: Keys, and how far merged logits may be from those of the adapter on rounded weights (inputs are rounded, too,
#: by the 8 bits of bitsandbytes, which a merge cannot keep).
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "nf4": (QLORA, 1e-4),
    "8bit": ({**LORA, "load_in_8bit": True}, 0.5),
    "torchao-int8": ({**LORA, "load_in_torchao": "int8"}, 1e-4),
    "torchao-int4": ({**LORA, "load_in_torchao": "int4"}, 1e-4),
}
IDS = torch.randint(8, 500, (2, 40), generator=torch.Generator().manual_seed(0))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("way", WAYS)
def test_a_run_beside_rounded_weights_is_resumed_exactly_and_merged(
    write_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
):
    from transformers import AutoModelForCausalLM

    keys, tolerance = WAYS[way]
    keys = {
        **keys,
        "max_steps": 8,
        "save_steps": 4,
        "learning_rate": 5e-2,
        "val_set_size": 2,
        "eval_steps": 4,
    }
    config = config_of(write_config(**keys, sample_packing=True))
    out = tmp_path / "out"
    pipeline.train(config)
    losses = [row["loss"] for row in metrics_of(out) if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert "linear layers held" in capsys.readouterr().err
    # 1. Stopped after step 4 and gone on with
    whole = weights_of(out)
    shutil.rmtree(out / "checkpoint-8")
    (out / "adapter_model.safetensors").unlink()
    pipeline.train(config_of(write_config(**keys, sample_packing=True, auto_resume_from_checkpoints=True)))
    resumed = weights_of(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # 2. Asked and merged
    answering = logits_of(load_tuned(config, probe_hardware()).model)
    capsys.readouterr()
    release.merge_lora(config)
    assert "% from the unrounded ones" in capsys.readouterr().err
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    assert "quantization_config" not in merged.config.to_dict()
    difference = (logits_of(merged) - answering).abs().max().item()
    assert difference < tolerance


def test_the_unrounded_base_is_merged_into_where_the_file_says_so(
    write_config: Any, tmp_path: Path, model_folder: Path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = config_of(write_config(**QLORA, max_steps=2, merge_base="original"))
    pipeline.train(config)
    release.merge_lora(config)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    assert torch.allclose(logits_of(merged), logits_of(adapted), atol=1e-4)


INT4 = {"weight_dtype": "int4", "activation_dtype": "int8", "quantize_embedding": True}
#: Inputs in 8-bit floats are multiplied on GPUs alone: see tests/gpu.
FP8 = {"weight_dtype": "fp8"}


@pytest.mark.parametrize("formats", [INT4, FP8])
def test_rounding_begins_exactly_when_asked_and_what_is_saved_rounds_to_what_was_trained(
    write_config: Any, tmp_path: Path, formats: dict[str, Any]
):
    from torchao.quantization import quantize_
    from transformers import AutoModelForCausalLM

    from siredon.model.rounding import build_layer_rounding, build_table_rounding, round_in_training_

    keys = {"max_steps": 8, "save_steps": 4, "learning_rate": 5e-3}
    folders = {name: tmp_path / name for name in ("plain", "late", "always")}
    losses = {}
    for name, qat in (
        ("plain", ...),
        ("late", {**formats, "fake_quant_after_n_steps": 5}),
        ("always", formats),
    ):
        config = config_of(write_config(**keys, qat=qat, output_dir=str(folders[name])))
        pipeline.train(config)
        losses[name] = [row["loss"] for row in metrics_of(folders[name]) if "loss" in row]
    # 1. The same as without rounding up to step 5, to the bit; another from step 6 on
    assert losses["late"][:5] == losses["plain"][:5]
    assert losses["late"][5] != losses["plain"][5]
    assert losses["always"][0] != losses["plain"][0]
    assert losses["always"][-1] < losses["always"][0] - 0.3
    # 2. Gone on with from step 4, it begins after step 5 again
    whole = weights_of(folders["late"])
    late = {**keys, "qat": {**formats, "fake_quant_after_n_steps": 5}, "output_dir": str(folders["late"])}
    shutil.rmtree(folders["late"] / "checkpoint-8")
    (folders["late"] / "model.safetensors").unlink()
    pipeline.train(config_of(write_config(**late, auto_resume_from_checkpoints=True)))
    resumed = weights_of(folders["late"])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # 3. Plain transformers reads what was saved; rounded by torchao, it gives the logits of training
    assert weights_of(folders["always"]).keys() == weights_of(folders["plain"]).keys()
    options = config.quantization.qat
    assert options is not None
    trained = AutoModelForCausalLM.from_pretrained(folders["always"], dtype=torch.float32)
    unrounded = logits_of(trained)
    round_in_training_(trained, options)
    rounded = AutoModelForCausalLM.from_pretrained(folders["always"], dtype=torch.float32)
    head = rounded.get_output_embeddings()
    quantize_(
        rounded,
        build_layer_rounding(options),
        lambda module, name: isinstance(module, torch.nn.Linear) and module is not head,
    )
    if options.quantize_embedding:
        quantize_(
            rounded,
            build_table_rounding(options),
            lambda module, name: isinstance(module, torch.nn.Embedding),
        )
    assert (logits_of(rounded) - logits_of(trained)).abs().max() < 1e-5
    assert (logits_of(trained) - unrounded).abs().max() > 5e-3


def test_groups_that_do_not_fit_are_refused_with_those_that_do(write_config: Any):
    from siredon.errors import ModelError

    config = config_of(write_config(qat={"group_size": 48}))
    with pytest.raises(
        ModelError, match=r"`qat.group_size: 48`: the 64 inputs of model.layers.0.*\n.*: 64, 32, 16"
    ):
        pipeline.train(config)
