from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.conftest import build_model
from tests.families import build_family
from tests.gguf_file import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.load import Source, load_model
from siredon.model.model_config import load_model_config
from siredon.model.tokenizer import load_tokenizer

CPU = Hardware("cpu", "a CPU", 1, False, False, 1)
IDS = torch.arange(10, 60)[None]


def source(folder: Path | str, sections: dict[str, Any] | None = None, **keys: Any) -> Source:
    chosen = {
        "attention": AttentionSection(),
        "placement": PlacementSection(),
        "embedding": EmbeddingSection(),
        "quantization": QuantizationSection(),
        "experts": ExpertSection(),
        **(sections or {}),
    }
    return Source(model=ModelSection(base_model=str(folder), **keys), **chosen)


def load(tokenizer: Any, folder: Path | str, sections: dict[str, Any] | None = None, **keys: Any) -> Any:
    return load_model(source(folder, sections, **keys), torch.float32, tokenizer, CPU, seed=0)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


# GGUF


@pytest.fixture(scope="module")
def gguf(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A Qwen2, and the GGUF file of it."""
    model = build_family("qwen2")
    return model, write_gguf(model, tokenizer, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_is_the_model_that_went_into_it(gguf: tuple[Any, Path], tokenizer: Any, tmp_path: Path):
    model, path = gguf
    for name in (path, path.parent):  # the file, or the folder in which it is alone
        loaded = load(tokenizer, name)
        assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(saved), logits(model))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_a_gguf_file_beside_an_adapter_is_read_for_itself(
    gguf: tuple[Any, Path], tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    model, path = gguf
    run = tmp_path / "run"
    run.mkdir()
    (run / path.name).write_bytes(path.read_bytes())
    adapted = get_peft_model(build_family("qwen2"), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(run)
    tokenizer.save_pretrained(run)
    built = load_tokenizer(TokenizerSection(), ModelSection(base_model=str(run / path.name)))
    assert built.chat_template == tokenizer.chat_template
    assert built.name_or_path == str(run)
    capfd.readouterr()
    loaded = load(tokenizer, run / path.name)
    assert torch.equal(logits(loaded), logits(model))
    assert (loaded.name_or_path, loaded.config.name_or_path) == (str(run), str(run))
    assert "Converting" not in capfd.readouterr().err


def test_the_tokenizer_of_a_gguf_file_is_in_it(gguf: tuple[Any, Path], tokenizer: Any, tmp_path: Path):
    built = load_tokenizer(TokenizerSection(tokens=("<think>",)), ModelSection(base_model=str(gguf[1])))
    text = "<|im_start|>user\nHello wörld<think><|im_end|>"
    assert [
        512 if index == built.convert_tokens_to_ids("<think>") else index for index in built.encode(text)
    ] == [
        *tokenizer.encode("<|im_start|>user\nHello wörld"),
        512,
        2,
    ]
    assert built.chat_template == tokenizer.chat_template
    built.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == built.encode(text)


def test_a_gguf_file_that_cannot_be_read_says_so(gguf: tuple[Any, Path], tokenizer: Any, tmp_path: Path):
    (tmp_path / "torn.gguf").write_bytes(gguf[1].read_bytes()[:900])
    with pytest.raises(ModelError, match=r"base_model: the config in torn.gguf cannot be read"):
        load(tokenizer, tmp_path / "torn.gguf")
    with pytest.raises(ModelError, match=r"holds no file other.gguf"):
        load(tokenizer, tmp_path / "other.gguf")


# Pickles


def test_a_pickle_is_read_where_it_is_asked_for(
    model_folder: Path, tokenizer: Any, tmp_path: Path, capsys: Any
):
    folder = tmp_path / "old"
    shutil.copytree(model_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights in pickle files only") as caught:
        load(tokenizer, folder)
    assert "use_safetensors=False" in caught.value.fix
    assert "allow_pickle: true" in caught.value.fix
    assert torch.equal(logits(load(tokenizer, folder, allow_pickle=True)), logits(model))
    assert "its pickles are read" in capsys.readouterr().err


class Trap:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-sprung"),))


def test_a_pickle_that_runs_something_is_refused_all_the_same(
    model_folder: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_folder / "config.json", tmp_path)
    torch.save({"model.norm.weight": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds more than tensors, and is not read"):
        load(tokenizer, tmp_path, allow_pickle=True)
    assert not (tmp_path / "trap-sprung").exists()


# What is in the folder


def test_a_model_with_a_missing_weight_is_refused(model_folder: Path, tokenizer: Any, tmp_path: Path):
    model = build_model()
    state = model.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(
        ModelError, match=r"lacks model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM needs"
    ):
        load(tokenizer, tmp_path)


def test_a_torn_file_is_told_from_a_missing_one(model_folder: Path, tokenizer: Any, tmp_path: Path):
    shutil.copy(model_folder / "config.json", tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded: Error no file named model.safetensors"):
        load(tokenizer, tmp_path)
    (tmp_path / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"the model in .* cannot be loaded: .*"):
        load(tokenizer, tmp_path)


def test_weights_of_another_shape_are_refused(model_folder: Path, tokenizer: Any):
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        load(tokenizer, model_folder, model_config={"intermediate_size": 96})


def test_weights_that_nobody_uses_are_told(model_folder: Path, tokenizer: Any, tmp_path: Path, capsys: Any):
    model = build_model()
    model.save_pretrained(tmp_path, state_dict={**model.state_dict(), "vision.weight": torch.ones(2)})
    assert torch.equal(logits(load(tokenizer, tmp_path)), logits(model))
    assert "also holds vision.weight, which LlamaForCausalLM does not use" in capsys.readouterr().err


def test_further_arguments_reach_the_loader(model_folder: Path, tokenizer: Any, tmp_path: Path):
    shutil.copytree(model_folder, tmp_path / "inner")
    shutil.copy(model_folder / "config.json", tmp_path)
    loaded = load(tokenizer, tmp_path, model_kwargs={"subfolder": "inner"})
    assert torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(model_folder)))


def test_the_class_of_the_config_can_be_named(model_folder: Path):
    section = ModelSection(base_model=str(model_folder), cls_model_config="MistralConfig")
    assert type(load_model_config(section)).__name__ == "MistralConfig"
    with pytest.raises(ModelError, match=r"`cls_model_config: LamaConfig` is no class.*\n.*LlamaConfig"):
        load_model_config(ModelSection(base_model=str(model_folder), cls_model_config="LamaConfig"))


# Positions


def config_of(folder: Path, **overrides: Any) -> Any:
    return load_model_config(ModelSection(base_model=str(folder), model_config=overrides))


def frequencies(config: Any) -> torch.Tensor:
    """Inverse frequencies of the rotary positions that a model of this config has."""
    from transformers import LlamaModel

    found: torch.Tensor = LlamaModel(config).rotary_emb.inv_freq
    return found


@pytest.fixture(scope="module")
def far(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a Llama with a base frequency of its own."""
    folder = tmp_path_factory.mktemp("far")
    config = build_model().config
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500_000.0}
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_scaled_positions_keep_the_base_frequency(far: Path, name: str, kind: str):
    plain = 500_000.0 ** -(torch.arange(0, 16, 2) / 16)
    config = config_of(far, **{name: {kind: "linear", "factor": 4.0}})
    torch.testing.assert_close(frequencies(config), plain / 4)
    assert config.rope_parameters["rope_theta"] == 500_000.0


def test_the_base_frequency_can_be_set_alone(far: Path):
    config = config_of(far, rope_theta=1000.0)
    torch.testing.assert_close(frequencies(config), 1000.0 ** -(torch.arange(0, 16, 2) / 16))


def test_yarn_scales_from_the_positions_that_the_model_had(far: Path):
    alone = config_of(far, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    both = config_of(far, rope_scaling={"rope_type": "yarn", "factor": 4.0}, max_position_embeddings=2048)
    for config in (alone, both):
        assert config.rope_parameters["original_max_position_embeddings"] == 512
    assert torch.equal(frequencies(alone), frequencies(both))


def test_a_model_with_several_kinds_of_positions_names_them(family_folder: Callable[[str], Path]):
    linear = {"rope_type": "linear", "factor": 2.0}
    config = config_of(family_folder("gemma3"), rope_scaling={"full_attention": linear})
    assert config.rope_parameters["full_attention"]["factor"] == 2.0
    assert config.rope_parameters["sliding_attention"]["rope_type"] == "default"
    with pytest.raises(ModelError, match=r"several kinds.*\n.*there are full_attention, sliding_attention"):
        config_of(family_folder("gemma3"), rope_scaling=linear)


# Experts


def test_experts_are_multiplied_as_the_key_says(tokenizer: Any, family_folder: Callable[[str], Path]):
    folder = family_folder("qwen3_moe")
    found = {}
    for name in ("eager", "batched_mm", "grouped_mm"):
        model = load(tokenizer, folder, {"experts": ExpertSection(experts_implementation=name)})
        assert model.get_experts_implementation()[""] == name
        found[name] = logits(model)
    torch.testing.assert_close(found["eager"], found["batched_mm"])
    torch.testing.assert_close(found["eager"], found["grouped_mm"])


def test_a_model_without_experts_refuses_the_key(tokenizer: Any, model_folder: Path):
    with pytest.raises(ModelError, match="a model of type llama has no experts"):
        load(tokenizer, model_folder, {"experts": ExpertSection(experts_implementation="eager")})


# Placement


def test_weights_lie_where_the_map_says(tokenizer: Any, model_folder: Path):
    model = load(tokenizer, model_folder, {"placement": PlacementSection(device_map="auto")})
    assert {str(parameter.device) for parameter in model.parameters()} == {"cpu"}
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(model_folder)))


def test_weights_for_which_there_is_no_room_are_not_put_on_disk(tokenizer: Any, model_folder: Path):
    small = PlacementSection(max_memory={"cpu": "100KB"})
    with pytest.raises(ModelError, match="disk"):
        load(tokenizer, model_folder, {"placement": small})


def test_several_processes_refuse_one_map(
    tokenizer: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="`device_map` lays one model over the devices of one process"):
        load(tokenizer, model_folder, {"placement": PlacementSection(device_map="auto")})


def test_a_limit_for_gpus_needs_one(tokenizer: Any, model_folder: Path):
    with pytest.raises(ModelError, match="`gpu_memory_limit` needs a GPU"):
        load(tokenizer, model_folder, {"placement": PlacementSection(gpu_memory_limit=20)})
