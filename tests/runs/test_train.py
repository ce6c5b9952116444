"""A tiny model from YAML to adapter, through the pipeline's own verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from siredon import pipeline, release
from siredon.config.deal import built_words
from siredon.config.load import load_config
from siredon.config.schema import Config, key_homes

LORA = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True}


def words_that_work(key: str) -> tuple[str, ...]:
    """The words of a key, less those that are not built yet."""
    return built_words(key_homes()[key])


def config_of(path: Path) -> Config:
    config, _ = load_config(str(path))
    return config


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model.safetensors"
    return load_file(folder / name)


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_training_writes_everything_and_lowers_the_loss(
    write_config: Any, tmp_path: Path, adapter: dict[str, Any], packed: bool
):
    rate = 5e-2 if adapter else 5e-3
    path = write_config(
        sample_packing=packed, max_steps=12, learning_rate=rate, val_set_size=4, evals_per_epoch=1, **adapter
    )
    pipeline.train(config_of(path))
    out = tmp_path / "out"
    rows = metrics_of(out)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert losses[-1] < losses[0] - 0.3
    validation = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert validation[-1] < validation[0]
    assert all(row["tokens_per_second"] > 0 and row["peak_memory_gib"] > 0 for row in rows if "loss" in row)
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 42
    assert record["data"]["fingerprint"]
    assert record["versions"]["torch"] == torch.__version__
    assert record["config"]["optimizer"]["learning_rate"] == rate
    assert record["finished"]["num_steps"] == 12
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "tokenizer.json").is_file()
    assert weights_of(out)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(write_config: Any, tmp_path: Path):
    keys = {
        **LORA,
        "lora_dropout": 0.2,
        "max_steps": 12,
        "save_steps": 5,
        "val_set_size": 4,
        "eval_steps": 3,
        "num_epochs": 2,
    }
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "whole"))))
    # The second run is stopped after step 5: its later checkpoints and lines never came to be.
    pipeline.train(config_of(write_config("b.yml", **keys, output_dir=str(tmp_path / "cut"))))
    for step in (10, 12):
        import shutil

        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{step}", ignore_errors=True)
    (tmp_path / "cut" / "adapter_model.safetensors").unlink()
    resumed = write_config(
        "c.yml", **keys, output_dir=str(tmp_path / "cut"), auto_resume_from_checkpoints=True
    )
    pipeline.train(config_of(resumed))
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    timing = ("tokens_per_second", "peak_memory_gib", "eval_runtime")

    def lines(folder: Path) -> list[dict[str, Any]]:
        return [
            {
                key: value
                for key, value in row.items()
                if not key.startswith(timing) and "per_second" not in key
            }
            for row in metrics_of(folder)
        ]

    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")


def test_a_resume_from_a_named_checkpoint_goes_on_there(write_config: Any, tmp_path: Path, capsys: Any):
    pipeline.train(config_of(write_config(**LORA, max_steps=4, save_steps=2)))
    named = str(tmp_path / "out" / "checkpoint-2")
    pipeline.train(config_of(write_config(**LORA, max_steps=4, save_steps=2, resume_from_checkpoint=named)))
    assert "going on from" in capsys.readouterr().err


def test_the_first_step_is_saved_when_asked(write_config: Any, tmp_path: Path):
    pipeline.train(config_of(write_config(**LORA, max_steps=3, save_strategy="no", save_first_step=True)))
    assert (tmp_path / "out" / "checkpoint-1" / "adapter_model.safetensors").is_file()


def test_old_checkpoints_go(write_config: Any, tmp_path: Path):
    pipeline.train(config_of(write_config(**LORA, max_steps=4, save_steps=1, save_total_limit=2)))
    assert sorted(p.name for p in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_added_special_tokens_are_trained_and_saved(write_config: Any, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    keys = {"special_tokens": {"eos_token": "<|done|>", "pad_token": "<|pad|>"}, "chat_template": "chatml"}
    pipeline.train(config_of(write_config(**keys, max_steps=2)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == "<|done|>"
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id


def test_bfloat16_trains_adapters_in_fp32(write_config: Any, tmp_path: Path):
    pipeline.train(config_of(write_config(**LORA, bf16=True, max_steps=6, learning_rate=5e-3)))
    losses = [row["loss"] for row in metrics_of(tmp_path / "out")]
    assert losses[-1] < losses[0]
    assert {value.dtype for value in weights_of(tmp_path / "out").values()} == {torch.float32}


def test_random_weights_are_made_from_the_config_alone(write_config: Any, tmp_path: Path, model_folder: Path):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    changes = {"base_model": str(bare), "reinit_weights": True, "model_config": {"num_hidden_layers": 1}}
    pipeline.train(config_of(write_config(**changes, max_steps=2)))
    assert not any(".layers.1." in name for name in weights_of(tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model": "no/such-model"}, "neither a local folder nor to be had from the hub"),
        ({"model_config": {"num_layerz": 3}}, "`model_config: num_layerz` is no setting of LlamaConfig"),
        ({"model_type": "LlamaForCausalLMM"}, "is no class of transformers"),
        ({"tokenizer_type": "LlamaTokeniser"}, "is no class of transformers"),
        ({**LORA, "lora_target_modules": ["q_prog"]}, "matches no layer"),
        ({**LORA, "lora_modules_to_save": ["head"]}, "matches no layer"),
        ({"fp16": True, "bf16": False}, "needs a GPU"),
    ],
)
def test_what_cannot_be_built_says_why(write_config: Any, changes: dict[str, Any], message: str):
    from siredon.errors import SiredonError

    with pytest.raises(SiredonError, match=message):
        pipeline.train(config_of(write_config(**changes)))


def test_a_model_that_leaks_between_packed_documents_is_refused(
    write_config: Any, tmp_path: Path, tokenizer: Any
):
    from transformers import OPTConfig, OPTForCausalLM

    from siredon.errors import ModelError

    folder = tmp_path / "opt"
    shape = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    OPTForCausalLM(OPTConfig(vocab_size=512, word_embed_proj_dim=32, init_std=0.5, **shape)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"type opt with .* lets documents in one sequence see each other"):
        pipeline.train(config_of(write_config(base_model=str(folder), sample_packing=True)))
    pipeline.train(config_of(write_config(base_model=str(folder), max_steps=1)))


def test_an_earlier_run_is_set_aside_and_never_taken_for_this_one(write_config: Any, tmp_path: Path):
    pipeline.train(config_of(write_config("a.yml", **LORA, max_steps=3, save_steps=1)))
    pipeline.train(config_of(write_config("b.yml", max_steps=2, save_steps=1)))
    out = tmp_path / "out"
    assert not (out / "adapter_config.json").exists()
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    [earlier] = (out / "earlier").iterdir()
    assert (earlier / "adapter_model.safetensors").is_file()
    assert (earlier / "checkpoint-3").is_dir()


def test_a_folder_with_a_foreign_model_is_not_written_to(write_config: Any, model_folder: Path):
    from siredon.errors import CheckpointError

    with pytest.raises(CheckpointError, match="which no run of siredon wrote"):
        pipeline.train(config_of(write_config(output_dir=str(model_folder))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps: 2 -> 1"),
        ({"micro_batch_size": 2}, "micro_batch_size: 1 -> 2"),
        ({"seed": 43}, "seed: 42 -> 43"),
        ({"sequence_len": 200}, "data: "),
        ({"sample_packing": True}, "data: "),
        ({"shuffle_merged_datasets": False}, "data: "),
    ],
)
def test_going_on_with_other_data_or_batches_is_refused(
    write_config: Any, change: dict[str, Any], named: str
):
    from siredon.errors import CheckpointError

    pipeline.train(config_of(write_config(**LORA, max_steps=2, save_steps=1)))
    changed = write_config(**{**LORA, "max_steps": 4, "auto_resume_from_checkpoints": True, **change})
    with pytest.raises(CheckpointError, match=named):
        pipeline.train(config_of(changed))


def test_a_torn_checkpoint_is_passed_over(write_config: Any, tmp_path: Path, capsys: Any):
    pipeline.train(config_of(write_config(**LORA, max_steps=3, save_steps=1)))
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").write_text("{")
    (tmp_path / "out" / "checkpoint-2" / "adapter_model.safetensors").unlink()
    pipeline.train(
        config_of(write_config(**LORA, max_steps=3, save_steps=1, auto_resume_from_checkpoints=True))
    )
    assert "going on from" in (err := capsys.readouterr().err)
    assert "checkpoint-1\n" in err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["finished"]["num_steps"] == 3


def test_the_same_seed_gives_the_same_run(write_config: Any, tmp_path: Path):
    for name in ("one", "two"):
        pipeline.train(
            config_of(write_config(**LORA, lora_dropout=0.1, max_steps=3, output_dir=str(tmp_path / name)))
        )
        torch.rand(3)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_lora_on_tied_embeddings_is_refused_with_the_way_out(write_config: Any):
    from siredon.errors import ModelError

    keys = {**LORA, "lora_target_modules": ["q_proj", "lm_head"], "lora_target_linear": False}
    with pytest.raises(ModelError, match=r"lora_modules_to_save: \[lm_head\]"):
        pipeline.train(config_of(write_config(**keys)))


def test_a_base_with_sampling_settings_can_be_saved(write_config: Any, tmp_path: Path, model_folder: Path):
    import shutil

    base = tmp_path / "sampled"
    shutil.copytree(model_folder, base)
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.6, "top_p": 0.9}))
    pipeline.train(config_of(write_config(base_model=str(base), max_steps=1)))
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["do_sample"]) == (0.6, True)


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_random_weights_are_the_same_when_asked_and_merged(
    write_config: Any, model_folder: Path, capsys: Any, adapter: dict[str, Any]
):
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    # Two rows are left: neither a validation nor a checkpoint after each step of theirs
    keys = {"val_set_size": 22, "eval_strategy": "no", "save_strategy": "no"}
    path = write_config(**adapter, **keys, reinit_weights=True, max_steps=60, learning_rate=2e-2)
    config = config_of(path)
    pipeline.train(config)
    losses = [row["loss"] for row in metrics_of(Path(config.checkpoint.output_dir)) if "loss" in row]
    assert losses[-1] < 1.0 or adapter
    torch.rand(7)
    prompts = Prompts(("hello",), False, False, Sampling(max_new_tokens=8))
    release.inference(config, prompts)
    first = capsys.readouterr().out.splitlines()[-1]
    torch.rand(7)
    release.inference(config, prompts)
    assert capsys.readouterr().out.splitlines()[-1] == first
    if adapter:
        from transformers import AutoModelForCausalLM

        release.merge_lora(config)
        assert AutoModelForCausalLM.from_pretrained(Path(config.checkpoint.output_dir) / "merged")


def test_asking_before_training_says_what_to_do(write_config: Any):
    from siredon.errors import CheckpointError
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    prompts = Prompts(("hello",), False, False, Sampling())
    for keys in ({}, LORA):
        with pytest.raises(CheckpointError, match="Train first"):
            release.inference(config_of(write_config(**keys)), prompts)


def test_new_tokens_that_an_adapter_does_not_train_are_warned_of(write_config: Any, capsys: Any):
    keys = {"special_tokens": {"eos_token": "<|done|>"}, "chat_template": "chatml"}
    pipeline.train(config_of(write_config(**LORA, **keys, max_steps=1)))
    assert "1 new token(s) (<|done|>) have embeddings that nobody trains" in capsys.readouterr().err


def test_a_finished_run_has_nothing_left_to_do(write_config: Any, tmp_path: Path, capsys: Any):
    keys = {**LORA, "max_steps": 2, "lr_scheduler": "constant", "auto_resume_from_checkpoints": True}
    pipeline.train(config_of(write_config(**keys)))
    out = tmp_path / "out"
    before = weights_of(out)
    capsys.readouterr()
    pipeline.train(config_of(write_config(**keys)))
    assert "nothing to do" in capsys.readouterr().out
    assert all(torch.equal(before[name], value) for name, value in weights_of(out).items())
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    # Killed after its last checkpoint, before the weights were written: they come from the checkpoint.
    (out / "adapter_model.safetensors").unlink()
    pipeline.train(config_of(write_config(**keys)))
    assert all(torch.equal(before[name], value) for name, value in weights_of(out).items())


def test_template_and_its_stop_token_are_saved_for_plain_transformers(
    write_config: Any, tmp_path: Path, tokenizer: Any
):
    from transformers import AutoTokenizer

    from siredon.data.templates.llama3 import TEMPLATE

    assert tokenizer.chat_template != TEMPLATE.source
    pipeline.train(config_of(write_config(chat_template="llama3", max_steps=1)))
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        saved = json.loads((folder / "generation_config.json").read_text())
        assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in saved["eos_token_id"]
        assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE.source


def test_a_run_that_cannot_be_built_leaves_the_earlier_one_where_it_is(write_config: Any, tmp_path: Path):
    from siredon.errors import ModelError

    pipeline.train(config_of(write_config(**LORA, max_steps=1)))
    with pytest.raises(ModelError, match="matches no layer"):
        pipeline.train(config_of(write_config(**{**LORA, "lora_target_modules": ["q_prog"]})))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_an_output_folder_in_the_home_is_found_again_by_every_verb(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    from siredon.serve.prompts import Prompts
    from siredon.serve.sampling import Sampling

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    keys = {**LORA, "output_dir": "~/out", "save_steps": 1, "auto_resume_from_checkpoints": True}
    pipeline.train(config_of(write_config(**keys, max_steps=2)))
    config = config_of(write_config(**keys, max_steps=3))
    pipeline.train(config)
    assert "going on from" in capsys.readouterr().err
    release.inference(config, Prompts(("hello",), False, False, Sampling(max_new_tokens=2)))
    release.merge_lora(config)
    assert (tmp_path / "home" / "out" / "merged" / "model.safetensors").is_file()
    assert not (tmp_path / "~").exists()
