"""Adapters merged file by file: the bits of the merge in memory, the formula, the check, and a kill in between."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.conftest import ROOT, build_model
from tests.families import write_family
from tests.unit.model.test_stored_bits import write_fp8, write_mxfp4

from siredon import release
from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.errors import CheckpointError, ModelError
from siredon.export.merge import find_changes, merge_adapters
from siredon.export.merge_base import load_merge_tokenizer
from siredon.export.merge_shards import Rows, Start, prepare_shard_merge
from siredon.export.merge_stage import Change
from siredon.export.merge_wanted import Merge
from siredon.export.tensor_files import Shards, list_shards
from siredon.export.widened_shards import widen_blocks
from siredon.hardware import probe_cpu
from siredon.model.adapt import attach_adapter_
from siredon.model.load import Source, load_model, load_skeleton
from siredon.train.publish import find_fault

#: PEFT and this file both mean it: embeddings that were resized, or are part of an adapter, are in its file.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*save_embedding_layers", "ignore:.*no longer tied", "ignore:.*tie_word_embeddings"
)

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
EXPERTS = {"lora_target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
QV = {"lora_target_linear": False, "lora_target_modules": ["q_proj", "v_proj"]}


class Bench:
    """A base, configs on it, and adapters with random weights."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self._num = 0

    def config(self, **keys: Any) -> Config:
        self._num += 1
        rows = ROOT / "examples/smollm2/identity.jsonl"
        values = {
            "base_model": str(self.base),
            "datasets": [{"path": str(rows), "type": "chat_template"}],
            "dataset_prepared_path": str(self.folder / "prepared"),
            "sequence_len": 64,
            "micro_batch_size": 1,
            "learning_rate": 1e-3,
            "bf16": False,
            "output_dir": str(self.folder / "out"),
            **LORA,
            **keys,
        }
        path = self.folder / f"{self._num}.yml"
        path.write_text(yaml.safe_dump(values))
        return load_config(str(path))[0]

    def adapter(self, config: Config, name: str = "out", seed: int = 0) -> Path:
        """Every weight of it moved from where it starts."""
        tokenizer = load_merge_tokenizer(config)
        base = load_model(Source.of(config), torch.float32, tokenizer, probe_cpu(), seed=42)
        adapted = attach_adapter_(base, config.adapter, seed=seed)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight += 0.05 * torch.randn(weight.shape, generator=chance)
        adapted.save_pretrained(self.folder / name)
        return self.folder / name

    def merge(self, config: Config, changes: list[Change], name: str) -> str:
        (self.folder / name).mkdir()
        tokenizer = load_merge_tokenizer(config)
        return merge_adapters(config, changes, tokenizer, probe_cpu(), self.folder / name)

    def read(self, name: str) -> dict[str, torch.Tensor]:
        return {
            key: value for file in list_shards(self.folder / name) for key, value in load_file(file).items()
        }


@pytest.fixture
def make(tmp_path: Path, model_folder: Path) -> Callable[..., Bench]:
    def make_one(base: Path = model_folder) -> Bench:
        return Bench(tmp_path, base)

    return make_one


def check_same_bits(bench: Bench, **keys: Any) -> dict[str, torch.Tensor]:
    """File by file and in memory: the same tensors, settings and generation, in the format of the base or another."""
    config = bench.config(**keys)
    adapter = bench.adapter(config)
    for method in ("memory_efficient", "legacy"):
        changed = bench.config(**keys, merge_method=method)
        assert bench.merge(changed, [Change(adapter)], method) == method
    found, wanted = bench.read("memory_efficient"), bench.read("legacy")
    assert found.keys() == wanted.keys()
    differ = {name: (found[name] - wanted[name]).abs().max() for name in wanted}
    assert {name: error for name, error in differ.items() if error > 0} == {}
    for name in ("config.json", "generation_config.json"):
        texts = [(bench.folder / method / name).read_text() for method in ("memory_efficient", "legacy")]
        assert texts[0] == texts[1]
    base = bench.read(str(bench.base))
    assert any(
        name not in base or base[name].dtype.itemsize == 1 or not torch.equal(found[name], base[name])
        for name in found
    )
    return found


KINDS: dict[str, dict[str, Any]] = {
    "dora": {
        "peft_use_dora": True,
        "peft_use_rslora": True,
        "lora_rank_pattern": {"q_proj": 2},
        "lora_alpha_pattern": {r"layers\.1.*": 32},
    },
    "saved": {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
    "untied": {"lora_modules_to_save": ["embed_tokens"], "peft_ensure_weight_tying": False},
    "rows": {"peft_trainable_token_indices": [1, 2, 300], "tokens": ["<think>", "</think>"]},
    "new": {
        "tokens": ["<think>"],
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
        "resize_token_embeddings_to_32x": True,
        "mean_resizing_embeddings": True,
    },
    "nf4": {"adapter": "qlora", "load_in_4bit": True},
    "original": {"adapter": "qlora", "load_in_4bit": True, "merge_base": "original"},
    "oft": {"adapter": "oft", **QV, "peft": {"oft_block_size": 8}, "lora_r": None, "lora_alpha": None},
}


@pytest.mark.parametrize("kind", KINDS)
def test_file_by_file_gives_the_bits_of_the_merge_in_memory(kind: str, make: Callable[..., Bench]):
    check_same_bits(make(), **KINDS[kind])


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("mixtral", {**QV, **EXPERTS}),
        ("gpt_oss", {**QV, **EXPERTS, "lora_bias": "lora_only", "attn_implementation": "eager"}),
        ("qwen2", {"lora_bias": "all", "tokens": ["<think>"], "bf16": True}),
        ("qwen3", {"lora_target_linear": False, "lora_target_modules": ["q_proj", "lm_head"]}),
    ],
)
def test_of_every_shape_of_model(
    family: str, keys: dict[str, Any], make: Callable[..., Bench], tmp_path: Path, tokenizer: Any
):
    bench = make(write_family(family, tmp_path / "base", tokenizer))
    found = check_same_bits(bench, **keys)
    wanted = torch.bfloat16 if keys.get("bf16") else torch.float32
    assert {value.dtype for value in found.values()} == {wanted}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_a_base_in_few_bits_is_widened_tensor_by_tensor(
    method: str, named: bool, make: Callable[..., Bench], tmp_path: Path, tokenizer: Any
):
    write, kind = {
        "fp8": (write_fp8, "FineGrainedFP8Config"),
        "mxfp4": (write_mxfp4, "Mxfp4Config"),
    }[method]
    folder = tmp_path / "stored"
    write(folder, tokenizer)
    bench = make(folder)
    # With the key, training reads 16 bits here; without it, 32
    keys = {"model_quantization_config": kind, "bf16": True} if named else {}
    keys |= {**QV, **EXPERTS, "attn_implementation": "eager"} if method == "mxfp4" else {}
    check_same_bits(bench, **keys)
    assert "quantization_config" not in json.loads((tmp_path / "memory_efficient/config.json").read_text())


def test_blocks_at_the_end_may_be_smaller_and_exponents_be_bytes():
    numbers = torch.ones(5, 3).to(torch.float8_e4m3fn)
    scales = torch.tensor([[126, 127], [128, 129], [130, 131]], dtype=torch.uint8)
    widened = widen_blocks(numbers, scales, (2, 2))
    rows = [[0.5, 0.5, 1.0]] * 2 + [[2.0, 2.0, 4.0]] * 2 + [[8.0, 8.0, 16.0]]
    assert widened.tolist() == rows
    assert widen_blocks(numbers, torch.tensor(0.25), (1, 1)).tolist() == [[0.25] * 3] * 5


def expected(weight: torch.Tensor, parts: list[tuple[dict[str, torch.Tensor], str, float]]) -> torch.Tensor:
    """`W + sum(s B A)` in fp64; the scale is that of the adapter times its weight."""
    total = weight.double()
    for tensors, layer, scale in parts:
        down, up = (tensors[f"{layer}.lora_{half}.weight"].double() for half in "AB")
        total = total + scale * up @ down
    return total


def test_several_adapters_add_up_each_times_its_weight(make: Callable[..., Bench], tmp_path: Path):
    bench = make()
    plain = bench.config()
    patterned = bench.config(peft_use_rslora=True, lora_rank_pattern={"q_proj": 2}, **QV)
    first, second = bench.adapter(plain, "first", 1), bench.adapter(patterned, "second", 2)
    release.merge_lora(plain, Merge((f"{first}:0.5", f"{second}:-2")))
    merged, base = bench.read("out/merged"), bench.read(str(bench.base))
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    for name in merged:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        parts = [(one, layer, 0.5 * 8 / 4)] if f"{layer}.lora_A.weight" in one else []
        if f"{layer}.lora_A.weight" in two:
            parts.append((two, layer, -2 * 8 / math.sqrt(2 if "q_proj" in name else 4)))
        torch.testing.assert_close(
            merged[name].double(), expected(base[name], parts), rtol=1e-6, atol=1e-6, msg=name
        )
    report = json.loads((tmp_path / "out/merged/merge.json").read_text())
    assert [part["weight"] for part in report["adapters"]] == [0.5, -2.0]
    # Both at once in PEFT is the oracle of the check
    assert report["verified"]["kl"] < 1e-9
    assert report["verified"]["same_token"] == 1.0
    # An adapter that does not only add can be neither weighted nor added to another
    dora = bench.adapter(bench.config(peft_use_dora=True, **QV), "dora", 3)
    for given in ((f"{dora}:0.5",), (str(dora), str(first))):
        with pytest.raises(ModelError, match="DoRA: it stretches the sum"):
            find_changes(plain.adapter, tmp_path, given)
    with pytest.raises(ModelError, match="'much' is no weight"):
        find_changes(plain.adapter, tmp_path, (f"{first}:much",))
    with pytest.raises(CheckpointError, match="holds no adapter"):
        find_changes(plain.adapter, tmp_path, (f"{tmp_path}/none:1",))


def test_a_base_in_several_files_is_read_and_written_piece_by_piece(
    make: Callable[..., Bench], tmp_path: Path, tokenizer: Any
):
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    build_model(len(tokenizer), tied=False, dtype=torch.bfloat16).save_pretrained(base, max_shard_size="60KB")
    tokenizer.save_pretrained(base)
    assert len(list_shards(base)) > 3
    bench = make(base)
    below = bench.adapter(bench.config(), "below", 5)
    config = bench.config(lora_frozen_dirs=[str(below)], merge_method="legacy")
    adapter = bench.adapter(bench.config())
    bench.merge(config, [Change(adapter)], "legacy")
    wanted = bench.read("legacy")
    # Both adapters, one after the other, in pieces
    loaded, hardware = load_merge_tokenizer(config), probe_cpu()
    skeleton = load_skeleton(Source.of(config), loaded, hardware, seed=42)
    assert all(weight.is_meta for weight in skeleton.parameters())
    start = Start(Rows.of(loaded, config.embedding, 42))
    changes = [Change(below), Change(adapter)]
    plan, reason = prepare_shard_merge(skeleton, Shards(list_shards(base)), changes, start, "cpu")
    assert plan is not None, reason
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    plan.write(pieces, torch.float32, 100_000)
    files = list_shards(pieces)
    assert len(files) > 3
    assert 80_000 < Shards(files).largest_file_bytes < 150_000
    skeleton.config.save_pretrained(pieces)
    model = AutoModelForCausalLM.from_pretrained(pieces, dtype=torch.float32)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


def test_what_does_not_say_what_the_adapter_says_is_not_written(
    make: Callable[..., Bench], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bench = make()
    config = bench.config()
    bench.adapter(config)
    release.merge_lora(config)
    text = capsys.readouterr().out
    assert "merged against base and adapter, rows of the training data, " in text
    assert "the likeliest token is the same after 100.00 %" in text
    before = (tmp_path / "out/merged/model.safetensors").read_bytes()
    assert find_fault(tmp_path / "out/merged", by_hash=True) == ""
    # A format in which the change is rounded off, under a bound that allows nothing
    with pytest.raises(ModelError, match=r"does not say what base and adapter say: .* KL "):
        release.merge_lora(bench.config(bf16=True), Merge(max_kl=0.0))
    assert (tmp_path / "out/merged/model.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    release.merge_lora(bench.config(bf16=True), Merge(verify=False))
    assert json.loads((tmp_path / "out/merged/merge.json").read_text())["verified"] is None
    # Without the data of the run a few texts are asked
    gone = bench.config(datasets=[{"path": str(tmp_path / "gone.jsonl"), "type": "chat_template"}])
    release.merge_lora(gone)
    assert "built-in texts, " in capsys.readouterr().out


def test_a_kill_leaves_no_half_model(make: Callable[..., Bench], tmp_path: Path):
    bench = make()
    config = bench.config()
    bench.adapter(config)
    began = time.monotonic()
    release.merge_lora(config)
    lasts = time.monotonic() - began
    place, chance = tmp_path / "out/merged", random.Random(0)
    num_killed = 0
    for _ in range(8):
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            release.merge_lora(config)
            os._exit(0)
        time.sleep(chance.uniform(0, lasts))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        num_killed += os.WIFSIGNALED(status)
        assert not place.exists() or find_fault(place, by_hash=True) == ""
    assert num_killed
    release.merge_lora(config)
    assert find_fault(place, by_hash=True) == ""
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("method", ["legacy", "memory_efficient"])
def test_a_base_that_a_gpu_rounded_in_training_is_said_to_be_another_one(
    method: str, make: Callable[..., Bench], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bench = make()
    config = bench.config(**KINDS["nf4"], merge_method=method)
    bench.adapter(config)
    found = {}
    for device in ("cpu", "cuda"):
        record = {"given": {}, "folder": str(tmp_path), "hardware": {"device": device}}
        (tmp_path / "out/run.json").write_text(json.dumps(record))
        release.merge_lora(config, Merge(verify=False))
        merged = json.loads((tmp_path / "out/merged/merge.json").read_text())
        found[device] = (merged["base_rounded_otherwise"], capsys.readouterr().err)
    assert found["cpu"][0] is None
    assert "rounded otherwise" not in found["cpu"][1]
    said = "the base is rounded on a CPU and was on a GPU in training: a few of its numbers are rounded otherwise"
    assert found["cuda"][0] == said
    assert said in found["cuda"][1]
