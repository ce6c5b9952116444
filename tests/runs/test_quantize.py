"""`siredon quantize`, from YAML to a folder that every verb reads: figures, `qat`, bounds, options."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import ROOT, build_model
from tests.runs.test_train import LORA, config_of
from typer.testing import CliRunner

from siredon import pipeline, release
from siredon.cli.app import app
from siredon.config.artifact import load_target
from siredon.errors import CheckpointError, ModelError
from siredon.evaluate.agreement import compute_logits
from siredon.evaluate.rows import prepare_rows
from siredon.evaluate.speed import measure_speed
from siredon.evaluate.wanted import Evaluation
from siredon.export.compressor import read_rows
from siredon.export.quantize_wanted import Quantize
from siredon.export.tensor_files import list_shards
from siredon.hardware import probe_hardware
from siredon.serve.load import load_tuned
from siredon.train.publish import find_fault

IDS = list(range(8, 40))
ENV = Path(os.environ.get("COMPRESSOR_ENV", ROOT / ".compressor-env"))


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "quantize.json").read_text())
    return report


def loss_of(folder: Path) -> float:
    """What `evaluate` says of a folder, by its path alone."""
    release.evaluate(load_target(str(folder))[0], Evaluation())
    return float(json.loads((folder / "evaluation/results.json").read_text())["results"][0]["loss"])


def read(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_a_run_is_merged_rounded_measured_and_read_by_every_verb(
    write_config: Any, tmp_path: Path, capsys: Any
):
    path = write_config(**LORA, max_steps=2, val_set_size=0.2)
    pipeline.train(config_of(path))
    run = tmp_path / "out"
    capsys.readouterr()
    release.quantize(load_target(str(run))[0], Quantize("int8", max_kl=0.1))
    shown = capsys.readouterr().out
    few, report = run / "quantized", report_of(run / "quantized")
    assert find_fault(few, by_hash=True) == ""
    # 1. Sizes are those of the files, losses those of `evaluate`, the agreement that of the logits
    assert report["bytes_before"] == sum(file.stat().st_size for file in list_shards(run / "merged"))
    assert report["bytes_after"] == (few / "model.safetensors").stat().st_size
    checked = report["checked"]
    assert checked["before"]["loss"] == pytest.approx(loss_of(run / "merged"), abs=1e-7)
    assert checked["after"]["loss"] == pytest.approx(loss_of(few), abs=1e-7)
    assert checked["after"]["loss"] != checked["before"]["loss"]
    assert 0 < checked["agreement"]["kl"] < checked["agreement"]["allowed_kl"] == 0.1
    assert report["read_back"]["max_error"] == 0
    assert min(checked["after"]["tokens_per_second"].values()) > 0
    for words in ("weights on disk", "perplexity", "tokens/s, answer written", "14 layers rounded"):
        assert words in shown
    # 2. By its path alone it is asked as the run is
    assert (few / "chat_template.jinja").read_text() == (run / "merged/chat_template.jinja").read_text()
    engine = load_tuned(load_target(str(few))[0], probe_hardware())
    difference = compute_logits(engine.model, IDS).cpu() - compute_logits(read(few), IDS)
    assert difference.abs().max() < 1e-5
    # 3. Rounded again it would have two errors
    with pytest.raises(ModelError, match=r"have few bits \(torchao\)"):
        release.quantize(load_target(str(few))[0], Quantize("int8"))


def test_above_the_bound_nothing_is_written_and_what_was_there_stays(
    write_config: Any, model_folder: Path, tmp_path: Path
):
    config = config_of(write_config())
    out = tmp_path / "few"
    release.quantize(config, Quantize("int8", output=out, base_model=str(model_folder), verify=False))
    before = (out / "model.safetensors").read_bytes()
    assert report_of(out)["checked"] is None
    with pytest.raises(ModelError, match=r"At most 1e-09 nats a token are allowed, so nothing was written"):
        release.quantize(config, Quantize("int4", output=out, base_model=str(model_folder), max_kl=1e-9))
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob(".writing*")) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not of an export"):
        release.quantize(config, Quantize("int8", output=tmp_path / "mine", base_model=str(model_folder)))


@pytest.mark.parametrize(
    "qat",
    [
        {"weight_dtype": "int4", "activation_dtype": "int8", "quantize_embedding": True},
        pytest.param({"weight_dtype": "int8", "group_size": 16}, marks=pytest.mark.long),
        {"weight_dtype": "fp8"},
    ],
)
def test_what_was_trained_for_rounding_is_rounded_by_the_same_numbers(
    qat: dict[str, Any], write_config: Any, tmp_path: Path, capsys: Any
):
    from siredon.model.rounding import round_in_training_

    config = config_of(write_config(qat=qat, max_steps=2, learning_rate=5e-3))
    pipeline.train(config)
    folder = tmp_path / "out"
    # The folder of the run knows how it was trained, as the file does
    checked, _ = load_target(str(folder), keeps=("qat", "quantization"))
    assert checked.quantization.qat == config.quantization.qat
    release.quantize(checked, Quantize())
    report = report_of(folder / "quantized")
    assert report["asked_by"] == "qat"
    assert report["checked"]["agreement"]["max_error"] > 1e-3
    assert report["checked"]["agreement_with_training"]["max_error"] < 1e-5
    assert "against the model as `qat` trained it" in capsys.readouterr().out
    # By hand: the layers of training on the weights of the run, and plain transformers on the folder
    felt = read(folder)
    round_in_training_(felt, config.quantization.qat)
    difference = compute_logits(felt.eval(), IDS) - compute_logits(read(folder / "quantized"), IDS)
    assert difference.abs().max() < 1e-5


def test_weights_in_16_bits_are_read_in_16_bits_whatever_the_run_computes_in(
    tokenizer: Any, write_config: Any, tmp_path: Path
):
    base = tmp_path / "base"
    build_model(len(tokenizer), dtype=torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    config = config_of(write_config(quantization={"weight_dtype": "int4", "group_size": 16}))
    release.quantize(config, Quantize(base_model=str(base), output=tmp_path / "few"))
    assert report_of(tmp_path / "few")["weights_per_scale"] == 16
    stored = load_file(tmp_path / "few/model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert load_tuned(load_target(str(tmp_path / "few"))[0], probe_hardware()).model.dtype == torch.bfloat16


def test_a_model_from_elsewhere_has_no_rows_and_is_measured_on_texts(model_folder: Path, tmp_path: Path):
    release.quantize(load_target(str(model_folder))[0], Quantize("fp8", output=tmp_path / "few"))
    checked = report_of(tmp_path / "few")["checked"]
    assert "loss" not in checked["before"]
    assert checked["agreement"]["samples"] == "built-in texts"
    assert not (tmp_path / "few/run.json").exists()
    assert load_target(str(tmp_path / "few"))[0].first_dataset.type == "chat_template"


def test_outliers_that_make_8_bits_mix_packed_rows_do_not_end_the_command(
    tokenizer: Any, write_config: Any, tmp_path: Path, capsys: Any
):
    base = tmp_path / "base"
    model = build_model(len(tokenizer), dtype=torch.bfloat16)
    # Columns of inputs that pass 6, after which bitsandbytes keeps them whole for every token of a batch
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[::9] = 4
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    keys = {"sample_packing": True, "val_set_size": 4}
    config = config_of(write_config(**keys))
    wanted = Quantize("llm_int8", base_model=str(base), output=tmp_path / "few")
    release.quantize(config, wanted)
    assert "the loss is that of rows by themselves" in capsys.readouterr().err
    checked = report_of(tmp_path / "few")["checked"]
    assert checked["rows"] == "4 validation sequences"
    assert 0 < abs(checked["after"]["loss"] - checked["before"]["loss"]) < 0.05
    # Trained or judged in packs, that is refused with its cause
    config = config_of(write_config(**keys, base_model=str(tmp_path / "few"), **LORA))
    with pytest.raises(
        ModelError, match="an outlier in one keeps a column of all from being rounded"
    ) as found:
        pipeline.train(config)
    assert "llm_int8_threshold: 0" in str(found.value.fix)
    # And is not, where outliers are rounded too
    options = {"bnb_config_kwargs": {"llm_int8_threshold": 0}, "load_in_8bit": True, "max_steps": 1}
    pipeline.train(config_of(write_config(**keys, base_model=str(base), **LORA, **options)))


def test_axolotls_options_are_those_of_the_block(write_config: Any, model_folder: Path, tmp_path: Path):
    run = CliRunner().invoke
    words = ["quantize", str(write_config()), "--base-model", str(model_folder), "--no-verify"]
    formats = ["--weight-dtype", "int4", "--activation-dtype", "int8", "--group-size", "16"]
    done = run(app, [*words, *formats, "--quantize-embedding", "--output-dir", str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    report = report_of(tmp_path / "here/quantized")
    assert (report["method"], report["weights_per_scale"], report["rounded_layers"]) == ("int4_int8", 16, 15)
    for odd, said in (
        (["--method", "int8", "--weight-dtype", "int4"], "--method says the formats already"),
        (["--method", "int8", "--output", "a", "--output-dir", "b"], "both say where"),
        (["--method", "int8", "--max-kl", "1"], "--max-kl needs the check"),
    ):
        done = run(app, [*words, *odd])
        assert done.exit_code == 2
        assert said in " ".join(done.output.replace("│", " ").split())


def test_rows_by_which_is_rounded_are_those_of_training(write_config: Any, tokenizer: Any):
    config = config_of(write_config(val_set_size=0.25, sample_packing=True, sequence_len=512))
    rows = read_rows(config)
    packs = prepare_rows(config, tokenizer, "training")[0].packs
    wanted = [sample.input_ids.tolist() for number in range(len(packs)) for sample in packs[number]]
    assert rows == wanted
    assert len(rows) == 18
    # Ids of whole conversations under the chat template, and not of the packs that training makes of them
    assert all(tokenizer.decode(row).count("<|im_start|>assistant") >= 1 for row in rows)


def test_what_rounds_by_rows_is_refused_without_them_or_its_environment(
    write_config: Any, model_folder: Path, tmp_path: Path
):
    wanted = Quantize("gptq", base_model=str(model_folder), compressor_env=tmp_path)
    with pytest.raises(
        ModelError, match=r"llm-compressor is not there: .*bin/python\n.*`make compressor-env`"
    ):
        release.quantize(config_of(write_config()), wanted)
    with pytest.raises(ModelError, match="the model's own folder says of none"):
        read_rows(load_target(str(model_folder))[0])


@pytest.mark.long
@pytest.mark.parametrize("method", ["gptq", "fp8_static"])
def test_llm_compressor_rounds_by_rows_and_plain_transformers_reads_it(
    method: str, write_config: Any, model_folder: Path, tmp_path: Path
):
    if not (ENV / "bin/python").is_file():
        pytest.skip("llm-compressor is not on this machine: make compressor-env")
    config, base = config_of(write_config()), str(model_folder)
    wanted = Quantize(method, 32 if method == "gptq" else None, False, tmp_path / "few", base, ENV)
    release.quantize(config, wanted)
    report = report_of(tmp_path / "few")
    assert (report["rounded_layers"], report["read_back"]) == (14, None)
    assert report["bytes_after"] < 0.65 * report["bytes_before"]
    stored = load_file(tmp_path / "few/model.safetensors")
    assert torch.equal(stored["model.embed_tokens.weight"], read(model_folder).model.embed_tokens.weight)
    off = (compute_logits(read(tmp_path / "few"), IDS) - compute_logits(read(model_folder), IDS)).abs().max()
    assert 0.01 < off < 2
    if method == "gptq":
        # By rows it is nearer than by its weights alone
        release.quantize(config, Quantize("int4", output=tmp_path / "near", base_model=base))
        alone = report_of(tmp_path / "near")["checked"]["agreement"]["kl"]
        assert report["checked"]["agreement"]["kl"] < 0.6 * alone
    with pytest.raises(ModelError, match="llm-compressor has failed"):
        release.quantize(config, Quantize("gptq", 32, False, tmp_path / "x", base, broken(tmp_path)))


def broken(folder: Path) -> Path:
    """An environment without llm-compressor."""
    import sys

    (folder / "env/bin").mkdir(parents=True)
    (folder / "env/bin/python").symlink_to(sys.executable)
    return folder / "env"


def test_speed_counts_the_tokens_that_were_read_and_written(model_folder: Path, monkeypatch: Any):
    import siredon.evaluate.speed as measured

    # A second passes at each look at the clock, so tokens a second are tokens
    moments = iter(range(1000))
    monkeypatch.setattr(measured.time, "perf_counter", lambda: next(moments))
    speed = measure_speed(read(model_folder), list(range(8, 72)))
    assert (speed.prefill, speed.generation) == (64, 32)
