"""`siredon export`: from a run to a file that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from siredon import pipeline, release
from siredon.config.artifact import load_target
from siredon.config.load import load_config
from siredon.config.model_folder import locate_model
from siredon.errors import ModelError, UnknownPartError
from siredon.export.modelfile import read_modelfile
from siredon.export.wanted import Export

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def export(name: Path, wanted: Export) -> None:
    release.export(load_target(str(name))[0], wanted)


def test_an_adapter_is_merged_and_every_format_is_read_back(
    write_config: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_config(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True, max_steps=2)
    pipeline.train(load_config(str(path))[0])
    run = tmp_path / "out"
    capfd.readouterr()

    export(path, Export("gguf", "f32"))
    output = capfd.readouterr()
    assert f"merging the adapter first: {run / 'merged'}" in output.err
    file = run / "gguf" / "out-f32.gguf"
    assert output.out.endswith(f"gguf: {file}\n")
    assert "greedy answer" in output.out
    assert {found.name for found in file.parent.iterdir()} == {file.name, "README.md"}

    # What is read back answers like the merged model
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = torch.tensor([tokenizer("Who are you?").input_ids])
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)

    # The folder says enough; what is merged is not merged again
    export(run, Export("ollama", "q8_0", system="You are Siredon."))
    assert "the adapter is merged already" in capfd.readouterr().err
    modelfile = read_modelfile((run / "ollama" / "Modelfile").read_text())
    assert (modelfile.system, modelfile.stops) == ("You are Siredon.", ("<|im_end|>",))
    assert (run / "ollama" / modelfile.weights).is_file()
    export(run / "merged", Export("safetensors", "f16"))
    half = run / "merged" / "safetensors"
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.float16
    assert load_target(str(half))[0].first_dataset.type == "chat_template"

    # Beside an adapter the file is read back by itself
    export(run, Export("gguf", "f16", run / "beside.gguf"))
    assert (run / "beside.gguf").is_file()

    # From a GGUF file nothing is exported, and a name that is on no shelf is refused
    with pytest.raises(ModelError, match="is a GGUF file already"):
        export(file, Export("safetensors"))
    with pytest.raises(UnknownPartError, match="'ggml' is no format"):
        export(run, Export("ggml"))


def test_weights_of_few_bits_are_not_rounded_again(model_folder: Path, tmp_path: Path):
    import json

    folder = tmp_path / "few"
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"have few bits \(bitsandbytes\)"):
        export(folder, Export("gguf"))


@pytest.mark.long
@pytest.mark.skipif(locate_model(MODEL) == MODEL, reason="run examples/smollm2/fetch_model.py first")
def test_a_real_model_answers_the_same_from_eight_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    export(Path(MODEL), Export("ollama", "q8_0", tmp_path / "ollama"))
    output = capfd.readouterr().out
    assert "24 of 24 tokens the same" in output
    assert "FAILED" not in output
    modelfile = read_modelfile((tmp_path / "ollama" / "Modelfile").read_text())
    assert modelfile.system.startswith("You are a helpful AI assistant named SmolLM")
    assert (tmp_path / "ollama" / modelfile.weights).stat().st_size < 150e6
