"""Weights that ranks wrote in pieces, as a model folder: the bits of the checkpoint, or an error and nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import ROOT, build_model
from tests.pieces import write_pieces
from tests.unit.cli.test_cli import run_main
from transformers import AutoModelForCausalLM, AutoTokenizer

from siredon import release
from siredon.config.artifact import load_target
from siredon.config.overrides import split_words
from siredon.config.sharded import WEIGHTS, load_sharded
from siredon.errors import CheckpointError, ModelError
from siredon.export import consolidate_write
from siredon.export.consolidate_wanted import Consolidation
from siredon.export.merge_wanted import Merge
from siredon.train.publish import find_fault

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "down_proj"]}
SHARED = {
    "dp_shard_size": 2,
    "fsdp_final_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_version": 2,
    "qlora_sharded_model_loading": True,
    "fsdp_config": {
        "state_dict_type": "SHARDED_STATE_DICT",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
    },
}


def make_weights(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The weights of a model, changed as by training; what is one tensor stays one."""
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=chance)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def put_together(path: Path, *words: str, **wanted: Any) -> None:
    """The verb, by what stands on its command line."""
    (name,), layer = split_words([str(path), *words])
    config, _ = load_sharded(name, [layer])
    release.merge_sharded_fsdp_weights(config, Consolidation(**wanted))


def same_bits(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in wanted.items()
    )


@pytest.fixture(scope="module")
def weights(model_folder: Path) -> dict[str, torch.Tensor]:
    return make_weights(model_folder)


@pytest.fixture
def run(write_config: Any, weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """The YAML of a run under FSDP whose last checkpoint is in pieces."""
    path: Path = write_config(**SHARED)
    for step in (2, 4):
        place = tmp_path / f"out/checkpoint-{step}" / WEIGHTS
        write_pieces(place, weights if step == 4 else {name: 0 * it for name, it in weights.items()})
    (tmp_path / "out/run.json").write_text('{"given": {}, "folder": "/"}')
    return path


def test_the_last_checkpoint_of_a_run_becomes_a_model(
    run: Path, weights: dict[str, torch.Tensor], tmp_path: Path, capsys: Any
):
    put_together(run)
    merged = tmp_path / "out/merged"
    shown = capsys.readouterr()
    assert (
        "of the run, and not of its result: dp_shard_size, fsdp_config, fsdp_final_state_dict_type, fsdp_version, "
        "qlora_sharded_model_loading\n"
    ) in shown.err
    assert f"checkpoint: {tmp_path}/out/checkpoint-4/{WEIGHTS}, 2 file(s), 21 tensors\n" in shown.err
    assert "read: 21 in float32, 1 of them the same as another\nwritten: 20 in float32, " in shown.out
    found = load_file(merged / "model.safetensors")
    assert same_bits(found, {name: it for name, it in weights.items() if name != "lm_head.weight"})
    model, info = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert same_bits(dict(model.state_dict()), weights)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.use_cache
    assert model.config.dtype == torch.float32
    assert model.generation_config.eos_token_id == [2]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert "<|im_start|>" in tokenizer.chat_template
    assert (merged / "run.json").read_bytes() == (tmp_path / "out/run.json").read_bytes()
    assert find_fault(merged, by_hash=True) == ""
    report = json.loads((merged / "consolidate.json").read_text())
    assert report["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert len(report["tensors"]) == 20
    assert report["checkpoint_files"] == ["__0_0.distcp", "__1_0.distcp"]
    before = (merged / "model.safetensors").stat().st_ino
    put_together(run)
    assert (merged / "model.safetensors").stat().st_ino != before


def test_the_format_of_the_run_and_the_size_of_files(
    run: Path, weights: dict[str, torch.Tensor], tmp_path: Path
):
    put_together(run, "bf16=true", output=tmp_path / "half", max_shard_size="100KB")
    files = sorted((tmp_path / "half").glob("model-*.safetensors"))
    assert len(files) > 2
    found = {name: it for file in files for name, it in load_file(file).items()}
    halves = {name: it.bfloat16() for name, it in weights.items() if name != "lm_head.weight"}
    assert same_bits(found, halves)
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    put_together(run, "bf16=true", output=tmp_path / "whole", dtype="f32")
    assert load_file(tmp_path / "whole/model.safetensors")["model.norm.weight"].dtype == torch.float32
    with pytest.raises(ModelError, match=r"--dtype bf15: .*\n  fix: Did you mean `bf16`\?"):
        put_together(run, dtype="bf15")


def test_a_finished_run_is_taken_before_its_checkpoints_and_a_torn_one_never(
    run: Path, weights: dict[str, torch.Tensor], tmp_path: Path, capsys: Any
):
    torn = tmp_path / "out/checkpoint-6" / WEIGHTS
    write_pieces(torn, weights)
    (torn / ".metadata").unlink()
    put_together(run)
    assert f"warning: {torn} was never finished (.metadata is missing): {tmp_path}/out/checkpoint-4" in (
        capsys.readouterr().err
    )
    end = {name: it + 1 for name, it in weights.items()}
    write_pieces(tmp_path / "out" / WEIGHTS, end)
    put_together(run)
    found = load_file(tmp_path / "out/merged/model.safetensors")
    assert same_bits(found, {name: it for name, it in end.items() if name != "lm_head.weight"})


def test_a_folder_by_itself_needs_the_name_of_its_model(
    model_folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path
):
    place = tmp_path / "saved"
    write_pieces(place, {f"_orig_mod.{name}": it for name, it in weights.items()}, path=(), num_others=3)
    with pytest.raises(
        CheckpointError, match=r"says which model its weights are of\n  fix: Add `--base-model"
    ):
        put_together(place)
    put_together(place, "--base-model", str(model_folder))
    assert len(load_file(place / "merged/model.safetensors")) == 20
    shutil.copy(model_folder / "config.json", place)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder / name, place)
    put_together(place)
    assert (place / "merged/chat_template.jinja").is_file()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="holds no distributed checkpoint"):
        put_together(place, checkpoint=empty)
    (empty / "pytorch_model_fsdp_rank0.bin").touch()
    with pytest.raises(CheckpointError, match=r"holds pytorch_model_fsdp_rank0\.bin, .*\n  fix: .*SHARDED"):
        put_together(place, checkpoint=empty)


def test_weights_that_were_one_and_differ_are_both_kept(
    model_folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path, capsys: Any
):
    apart = {**weights, "lm_head.weight": weights["lm_head.weight"] + 1}
    write_pieces(tmp_path / "apart", apart)
    put_together(tmp_path / "apart", "--base-model", str(model_folder))
    assert (
        "are one weight in the model, and differ in the checkpoint: both are written"
        in capsys.readouterr().err
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "apart/merged")
    assert same_bits(dict(model.state_dict()), apart)
    head = {name: it for name, it in weights.items() if name != "model.embed_tokens.weight"}
    write_pieces(tmp_path / "head", head)
    put_together(tmp_path / "head", "--base-model", str(model_folder))
    assert "model.embed_tokens.weight" in load_file(tmp_path / "head/merged/model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "head/merged")
    assert same_bits(dict(model.state_dict()), weights)


def test_a_base_in_few_bits_leaves_no_trace_of_them(
    model_folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path
):
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    (base / "model.safetensors").unlink()
    settings = json.loads((base / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (base / "config.json").write_text(json.dumps(settings))
    write_pieces(tmp_path / "saved", weights)
    put_together(tmp_path / "saved", "--base-model", str(base))
    assert "quantization_config" not in json.loads((tmp_path / "saved/merged/config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved/merged")
    assert same_bits(dict(model.state_dict()), weights)


def test_experts_that_are_stacked_in_memory_are_written_as_the_family_has_them(
    family_folder: Callable[[str], Path], tmp_path: Path
):
    base = family_folder("mixtral")
    stacked = make_weights(base)
    assert any(name.endswith("experts.gate_up_proj") for name in stacked)
    write_pieces(tmp_path / "saved", stacked, ranks=(2, 2))
    put_together(tmp_path / "saved", "--base-model", str(base))
    found = load_file(tmp_path / "saved/merged/model.safetensors")
    assert found.keys() == load_file(base / "model.safetensors").keys()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved/merged")
    assert same_bits(dict(model.state_dict()), stacked)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: it.pop("model.norm.weight"), r"missing: model\.norm\.weight\n"),
        (lambda it: it.update(more=torch.ones(2)), r"weights that the model does not have: more\n"),
        (
            lambda it: it.update({"model.norm.weight": torch.ones(63)}),
            r"model\.norm\.weight is 63, and 64 in the model\n",
        ),
        (
            lambda it: it.update({"model.layers.0.mlp.up_proj.lora_A.default.weight": torch.ones(2)}),
            r"it holds an adapter, too: model\.layers\.0\.mlp\.up_proj\.lora_A\.default\.weight\n  fix: Say which",
        ),
        (lambda it: it.update({"model.norm.weight": torch.full((64,), 1e6)}), "f16 cannot hold"),
    ],
)
def test_what_does_not_fit_leaves_what_was_there(
    change: Callable[[dict[str, torch.Tensor]], Any],
    reason: str,
    run: Path,
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
):
    merged = tmp_path / "out/merged"
    merged.mkdir()
    (merged / "manifest.json").write_text('{"files": {}}')
    other = dict(weights)
    change(other)
    shutil.rmtree(tmp_path / "out/checkpoint-4")
    write_pieces(tmp_path / "out/checkpoint-4" / WEIGHTS, other)
    with pytest.raises((CheckpointError, ModelError), match=reason):
        put_together(run, dtype="f16")
    assert [path.name for path in merged.iterdir()] == ["manifest.json"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("checkpoint-2", "checkpoint-4", "merged", "run.json")
    }


def test_a_rank_that_is_missing_and_a_folder_of_somebody_else(
    run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(CheckpointError, match="it would be replaced as a whole"):
        put_together(run, output=tmp_path / "mine")
    (tmp_path / "out/checkpoint-4" / WEIGHTS / "__1_0.distcp").unlink()
    status = run_main(monkeypatch, "merge-sharded-fsdp-weights", str(run), "--dtype", "bf16")
    assert status == 1
    assert (
        "__1_0.distcp is missing: it holds 256 x 64 of model.model.embed_tokens.weight"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out/merged").exists()


def test_a_byte_that_the_disk_changes_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check = consolidate_write.check_written

    def spoil(folder: Path, *others: Any) -> int:
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
        return check(folder, *others)

    monkeypatch.setattr(consolidate_write, "check_written", spoil)
    with pytest.raises(CheckpointError, match="was read back as something else than was written"):
        put_together(run)
    assert not (tmp_path / "out/merged").exists()


def make_adapter(model_folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What PEFT saves of a random adapter, and the state of base and adapter."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules=LORA["lora_target_modules"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), settings)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return dict(get_peft_model_state_dict(adapted)), dict(adapted.state_dict())


def test_an_adapter_becomes_an_adapter_which_is_merged_then(
    write_config: Any, model_folder: Path, tmp_path: Path, capsys: Any
):
    saved, whole = make_adapter(model_folder)
    config = write_config(**LORA, **SHARED)
    write_pieces(tmp_path / "out" / WEIGHTS, saved)
    put_together(config)
    adapter = tmp_path / "out/adapter"
    assert same_bits(load_file(adapter / "adapter_model.safetensors"), saved)
    write_pieces(tmp_path / "whole", {f"_orig_mod.{name}": it for name, it in whole.items()})
    capsys.readouterr()
    put_together(config, checkpoint=tmp_path / "whole", output=tmp_path / "again", dtype="bf16")
    assert (
        "21 frozen weights of the base are left out: only the adapter is written" in capsys.readouterr().err
    )
    halves = {name: it.bfloat16() for name, it in saved.items()}
    assert same_bits(load_file(tmp_path / "again/adapter_model.safetensors"), halves)
    # By the file that PEFT writes beside an adapter
    shutil.copy(adapter / "adapter_config.json", tmp_path / "whole")
    put_together(tmp_path / "whole")
    assert same_bits(load_file(tmp_path / "whole/adapter/adapter_model.safetensors"), saved)
    target, _ = load_target(str(adapter), [split_words(["bf16=false"])[1]])
    release.merge_lora(target, Merge(verify=False))
    merged = load_file(adapter / "merged/model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    low = [saved[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB"]
    wanted = load_file(model_folder / "model.safetensors")[f"{name}.weight"] + 2 * low[1] @ low[0]
    assert torch.allclose(merged[f"{name}.weight"], wanted, atol=1e-6)
    saved.pop(f"base_model.model.{name}.lora_A.weight")
    write_pieces(tmp_path / "less", saved)
    with pytest.raises(CheckpointError, match=r"missing: base_model.*q_proj\.lora_A"):
        put_together(config, checkpoint=tmp_path / "less")


def test_an_adapter_that_is_none_of_the_base_is_refused(
    write_config: Any, model_folder: Path, tmp_path: Path
):
    saved, _ = make_adapter(model_folder)
    write_pieces(tmp_path / "out" / WEIGHTS, saved)
    with pytest.raises(ModelError, match="LoRA began by `pissa`, which takes from the base"):
        put_together(write_config(**LORA, peft_init_lora_weights="pissa"))


def test_train_says_what_shard_is_not(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    assert run_main(monkeypatch, "train", str(run), "--shard") == 1
    assert (
        "fix: Leave it out. What other programs wrote in pieces is put together by" in capsys.readouterr().err
    )


# Real ranks


@pytest.fixture(scope="module")
def trained(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks under FSDP2, and FSDP1, have written."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "tests/runs/sharded_training.py"), str(out), str(model_folder)]
    ranks = [
        subprocess.Popen(
            command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=240)
        assert rank.returncode == 0, said[-3000:]
    return out


@pytest.mark.long
def test_what_two_ranks_wrote_is_what_they_gathered(trained: Path, model_folder: Path):
    base = ("--base-model", str(model_folder))
    lora = [f"{name}={json.dumps(value)}" for name, value in LORA.items()]
    untied = (*base, "model_config.tie_word_embeddings=false")
    for name, truth, words in (
        ("tied", "tied", base),
        ("untied", "untied", untied),
        ("flat", "untied", untied),
        ("first", "first", base),
        ("lora", "lora", (*base, *lora)),
        ("lora-and-base", "lora", (*base, *lora)),
    ):
        put_together(trained / name, *words)
        wanted = torch.load(trained / f"{truth}.pt", weights_only=True)
        if truth == "lora":
            found = load_file(trained / name / "adapter/adapter_model.safetensors")
        else:
            found = dict(AutoModelForCausalLM.from_pretrained(trained / name / "merged").state_dict())
        assert same_bits(found, wanted), name
    plain = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    trained_weights = torch.load(trained / "tied.pt", weights_only=True)
    assert not torch.equal(plain["model.norm.weight"], trained_weights["model.norm.weight"])


@pytest.mark.long
def test_a_kill_leaves_nothing_half(run: Path, tmp_path: Path):
    wide = build_model(20_000, tied=False)
    wide.save_pretrained(tmp_path / "wide")
    write_pieces(tmp_path / "out" / WEIGHTS, dict(wide.state_dict()))
    merged, draft = tmp_path / "out/merged", tmp_path / "out/.writing-merged"
    command = [sys.executable, "-m", "siredon", "merge-sharded-fsdp-weights", str(run)]
    command += ["--base-model", str(tmp_path / "wide"), "--tokenizer-config", str(run.parent / "tokenizer")]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (run.parent / "tokenizer").mkdir(exist_ok=True)
        shutil.copy(Path(load_sharded(str(run))[0].model.base_model) / name, run.parent / "tokenizer")
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not draft.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert draft.exists()
    assert not merged.exists()
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert find_fault(merged, by_hash=True) == ""
    assert not draft.exists()
