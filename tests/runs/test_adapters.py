"""Every kind of adapter on a tiny model: trained by the pipeline, saved, loaded by PEFT alone, merged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import ROOT

from siredon import pipeline, release
from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.errors import ModelError
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import START, free_of_start_, load_adapter, merge_into, read_start
from siredon.train.saving import write_files

Keys = dict[str, Any]

ALL = {"lora_target_linear": True}
FOUR = {"lora_target_modules": ["q_proj", "v_proj", "down_proj"]}
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, **ALL}


def lora(**keys: Any) -> Keys:
    return {**LORA, **keys}


def other(word: str, **options: Any) -> Keys:
    return {"adapter": word, **FOUR, "peft": options}


KINDS: dict[str, Keys] = {
    "plain": lora(),
    "dora": lora(peft_use_dora=True),
    "rslora": lora(peft_use_rslora=True),
    "random": lora(peft_init_lora_weights=False),
    "gaussian": lora(peft_init_lora_weights="gaussian"),
    "orthogonal": lora(peft_init_lora_weights="orthogonal"),
    "mica": lora(peft_init_lora_weights="mica"),
    "pissa": lora(peft_init_lora_weights="pissa"),
    "pissa_niter": lora(
        peft_init_lora_weights="pissa_niter_4",
        peft_use_rslora=True,
        lora_rank_pattern={"q_proj": 2},
        lora_alpha_pattern={"down_proj": 3},
    ),
    "olora": lora(peft_init_lora_weights="olora", peft_use_dora=True),
    "eva": lora(peft_init_lora_weights="eva", lora_r=2),
    "patterns": lora(
        lora_target_linear=False,
        lora_target_modules=[r"self_attn\.[qv]_proj", "up_proj"],
        lora_rank_pattern={"q_proj": 2},
        lora_alpha_pattern={r"layers\.1.*": 32},
    ),
    "blocks": lora(peft_layers_to_transform=[1], lora_exclude_modules=["o_proj"]),
    "saved": lora(lora_modules_to_save=["embed_tokens", "lm_head"]),
    "tokens": lora(peft_trainable_token_indices=[1, 2, 300]),
    "replicated": lora(peft_layer_replication=[[0, 2], [0, 2]]),
    "velora": lora(peft={"velora_config": {"num_groups": 8}}),
    "oft": other("oft", oft_block_size=8),
    "boft": other("boft", boft_block_size=8),
    "vera": other("vera", r=8),
    "ia3": other("ia3"),
    "lokr": other("lokr", r=4, alpha=8),
    "hra": other("hra", r=4),
    "fourierft": other("fourierft", n_frequency=50),
    "miss": other("miss", r=8),
    "delora": other("delora", r=4),
    "randlora": other("randlora", r=8),
    "llama-adapter": {"adapter": "llama-adapter", "peft": {"adapter_len": 4, "adapter_layers": 2}},
}


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Callable[..., Config]:
    """A config of the tiny model on rows that are prepared once for all tests of this file."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:12]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")

    def write_one(output: Path, **changes: Any) -> Config:
        values = {
            "base_model": str(model_folder),
            "datasets": [{"path": str(folder / "rows.jsonl"), "type": "chat_template"}],
            "dataset_prepared_path": str(folder / "prepared"),
            "sequence_len": 128,
            "micro_batch_size": 2,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "lr_scheduler": "constant",
            "bf16": False,
            "save_strategy": "no",
            "output_dir": str(output),
            **changes,
        }
        path = output.parent / f"{output.name}.yml"
        path.write_text(yaml.safe_dump(values))
        config, _ = load_config(str(path))
        return config

    return write_one


def build_base(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 45).reshape(2, 20)
    return model.eval()(input_ids=ids).logits


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that the pipeline trains, in turn, to look at them after it."""
    from siredon.train import equip

    seen: list[Any] = []
    plain = equip.equip_trainer_

    def look(trainer: Any, parts: Any, config: Any, hardware: Any) -> None:
        plain(trainer, parts, config, hardware)
        seen.append(trainer.model)

    monkeypatch.setattr("siredon.train.methods.sft.equip_trainer_", look)
    return seen


def names_of_layers(model: Any) -> list[str]:
    """Names, in the base, of the layers that have an adapter or are trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return [
        name.removeprefix("base_model.model.").removesuffix(".token_adapter")
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]


def check_frozen(model: Any, base: Any) -> None:
    """What is not trained is bit for bit what the base has."""
    weights = dict(base.named_parameters())
    seen = 0
    for name, weight in model.named_parameters():
        name = (
            name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        )
        if name in weights and not weight.requires_grad:
            assert torch.equal(weight, weights[name]), name
            seen += 1
    assert seen >= len(weights) - 2 * 4


def step(model: Any, num_steps: int = 3) -> None:
    """A few steps of the optimizer on fixed tokens."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    ids = torch.arange(20, 68).reshape(2, 24)
    model.train()
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def check_whole(kind: str, out: Path, expected: torch.Tensor, model_folder: Path) -> None:
    """PEFT alone gives the trained model on the base as it is on disk; merged it is that, and every layer has moved."""
    from peft import PeftModel

    base = build_base(model_folder)
    plain = logits_of(base)
    assert (expected - plain).abs().max() > 1e-3
    loaded = PeftModel.from_pretrained(build_base(model_folder), str(out))
    torch.testing.assert_close(logits_of(loaded), expected, rtol=0, atol=1e-5)
    if kind != "replicated":
        with loaded.disable_adapter():
            torch.testing.assert_close(logits_of(loaded), plain, rtol=0, atol=0)
    if kind == "llama-adapter":
        return
    adapted = names_of_layers(loaded)
    merged = merge_into(loaded.get_base_model(), loaded)
    torch.testing.assert_close(logits_of(merged), expected, rtol=0, atol=1e-5)
    assert len(adapted) >= 2
    for name in adapted if kind != "replicated" else ():
        assert not torch.equal(merged.get_submodule(name).weight, base.get_submodule(name).weight), name


@pytest.mark.filterwarnings("ignore:Failed to load the CUDA", "ignore:Setting boft_n_butterfly_factor")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "eva"])
def test_an_adapter_is_trained_saved_loaded_by_peft_and_merged(
    kind: str, write: Callable[..., Config], model_folder: Path, tmp_path: Path
):
    out = tmp_path / "out"
    section = write(out, **KINDS[kind]).adapter
    model = attach_adapter_(build_base(model_folder), section, seed=0)
    if section.moves_base:
        start = read_start(model)
        torch.testing.assert_close(logits_of(model), logits_of(build_base(model_folder)), rtol=0, atol=1e-5)
    step(model)
    if not section.moves_base:
        check_frozen(model, build_base(model_folder))
    model.save_pretrained(out)
    if section.moves_base:
        write_files(out, {START: start})
        free_of_start_(out)
    check_whole(kind, out, logits_of(model), model_folder)


@pytest.mark.parametrize("kind", ["eva", "pissa", "replicated", "llama-adapter"])
def test_the_pipeline_trains_goes_on_exactly_and_merges(
    kind: str, write: Callable[..., Config], model_folder: Path, tmp_path: Path, trained: list[Any]
):
    keys = {**KINDS[kind], "save_steps": 2, "save_strategy": "steps", "sample_packing": kind == "eva"}
    pipeline.train(write(tmp_path / "whole", **keys))
    expected = logits_of(trained[0])
    check_whole(kind, tmp_path / "whole", expected, model_folder)
    # A checkpoint that is loaded is the adapter of that step, whatever its start took from the base
    if kind == "pissa":
        checkpoint = tmp_path / "whole" / "checkpoint-2"
        once, twice = (load_adapter(build_base(model_folder), checkpoint) for _ in range(2))
        assert torch.equal(logits_of(once), logits_of(twice))
        assert (checkpoint / "adapter_start.safetensors").is_file()
        assert once.peft_config["default"].r == 8
    # Going on from a checkpoint gives the same bits
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut")
    again = write(tmp_path / "again", **keys, resume_from_checkpoint=str(tmp_path / "cut"))
    pipeline.train(again)
    assert torch.equal(logits_of(trained[1]), expected)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    if kind == "llama-adapter":
        with pytest.raises(ModelError, match="cannot be merged"):
            release.merge_lora(again)
        return
    release.merge_lora(again)
    merged = build_base(tmp_path / "again" / "merged")
    torch.testing.assert_close(logits_of(merged), expected, rtol=0, atol=1e-5)


def answers_of(config: Config, capsys: Any, **asked: Any) -> str:
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    sampling = Sampling(max_new_tokens=4)
    capsys.readouterr()
    release.inference(config, Prompts(("Who are you?",), sampling=sampling, **asked))
    return str(capsys.readouterr().out)


def test_an_adapter_below_and_one_trained_on_go_through_every_verb(
    write: Callable[..., Config], model_folder: Path, tmp_path: Path, trained: list[Any], capsys: Any
):
    pipeline.train(write(tmp_path / "first", **lora(learning_rate=5e-2)))
    keys = {"lora_frozen_dirs": [str(tmp_path / "first")], "lora_model_dir": str(tmp_path / "first")}
    config = write(tmp_path / "second", adapter="lora", **keys)
    # While the run has written none, the adapter that it would begin with is asked and merged
    release.merge_lora(config)
    twice = build_base(model_folder)
    for _ in range(2):
        twice = merge_into(twice, load_adapter(twice, tmp_path / "first"))
    begun = logits_of(build_base(tmp_path / "second" / "merged"))
    torch.testing.assert_close(begun, logits_of(twice), rtol=0, atol=1e-5)
    shutil.rmtree(tmp_path / "second")
    pipeline.train(config)
    expected = logits_of(trained[1])
    assert (expected - begun).abs().max() > 1e-3
    release.merge_lora(config)
    torch.testing.assert_close(
        logits_of(build_base(tmp_path / "second" / "merged")), expected, rtol=0, atol=1e-5
    )
    # The base that is asked is the one on disk, not the one with the adapter below
    plain = answers_of(write(tmp_path / "first", **lora()), capsys, base=True, compare=False)
    both = answers_of(config, capsys, base=False, compare=True)
    assert plain.strip().splitlines()[-1] in both
