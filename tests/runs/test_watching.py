"""What happens beside training, from YAML: nothing of it changes the run by a bit, and all of it survives a resume."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.errors import TrainingError

WATCHING = {
    "generate_samples": True,
    "num_generation_samples": 2,
    "generation_max_new_tokens": 6,
    "eval_table_size": 2,
    "eval_max_new_tokens": 5,
    "profiler_steps": 2,
    "profiler_steps_start": 1,
    "gc_collect_steps": -1,
    "torch_empty_cache_steps": 2,
    "include_tokens_per_second": True,
}
VALIDATION = {"val_set_size": 4, "eval_steps": 2}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(folder: Path) -> list[dict[str, Any]]:
    timing = ("peak_memory_gib", "eval_runtime")
    return [
        {name: value for name, value in row.items() if name not in timing and "per_second" not in name}
        for row in metrics_of(folder)
    ]


def test_watching_a_run_does_not_change_it(write_config: Any, tmp_path: Path, tokenizer: Any, capsys: Any):
    keys = {**LORA, **VALIDATION, "lora_dropout": 0.2, "max_steps": 4, "sample_packing": True}
    keys |= {"sequence_len": 128, "gradient_checkpointing": True, "save_steps": 2}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    capsys.readouterr()
    pipeline.train(config_of(write_config("b.yml", **keys, **WATCHING)))
    out, shown = tmp_path / "out", capsys.readouterr().err
    assert same(tmp_path / "plain", out)
    assert [row["loss"] for row in metrics_of(out) if "loss" in row] == [
        row["loss"] for row in metrics_of(tmp_path / "plain") if "loss" in row
    ]

    samples = lines_of(out / "samples.jsonl")
    assert [row["step"] for row in samples] == [0, 0, 2, 2, 4, 4]
    assert samples[0]["given"] == samples[2]["given"]
    assert samples[0]["given"].startswith("<|im_start|>")
    assert "sample, row" in shown
    stop = "<|im_end|>"
    assert all(stop not in row["written"] or row["written"].endswith(stop) for row in samples)
    for row in samples:
        rest = len(tokenizer(row["expected"], add_special_tokens=False)["input_ids"])
        given = len(tokenizer(row["given"], add_special_tokens=False)["input_ids"])
        assert abs(given - rest) <= 2

    table = lines_of(out / "predictions.jsonl")
    assert [row["step"] for row in table] == [0, 0, 2, 2, 4, 4]
    assert all(row["prompt"].endswith("<|im_start|>assistant\n") for row in table)
    assert all(
        row["expected"].startswith(row["expected"].strip()[:5]) and stop in row["expected"] for row in table
    )

    trace = json.loads((out / "profile/trace-0.json").read_text())
    steps = [event for event in trace["traceEvents"] if "Optimizer.step" in str(event.get("name"))]
    assert len(steps) == 2
    assert "`torch_empty_cache_steps` has no effect" in shown
    rows = metrics_of(out)
    validations = [row for row in rows if "eval_loss" in row]
    assert all(row["eval_perplexity"] == math.exp(row["eval_loss"]) for row in validations)
    assert f"perplexity {validations[-1]['eval_perplexity']:.4g}" in shown
    steps = [row for row in rows if "loss" in row]
    record = json.loads((out / "run.json").read_text())
    assert steps[-1]["num_tokens"] == record["finished"]["num_tokens"]
    assert all(0 < row["learned_tokens_per_second_per_device"] < row["tokens_per_second"] for row in steps)

    # Killed after step 2: the rest of the files is written again, the same
    before = (out / "samples.jsonl").read_text(), (out / "predictions.jsonl").read_text()
    shutil.rmtree(out / "checkpoint-4")
    pipeline.train(config_of(write_config("c.yml", **keys, **WATCHING, auto_resume_from_checkpoints=True)))
    assert ((out / "samples.jsonl").read_text(), (out / "predictions.jsonl").read_text()) == before
    assert same(tmp_path / "plain", out)


def test_the_metrics_of_a_resumed_run_have_neither_gaps_nor_repeats(
    write_config: Any, tmp_path: Path, capsys: Any
):
    # A checkpoint within a line of the log, whose loss is a mean over the steps before it and after
    keys = {
        "max_steps": 8,
        "logging_steps": 4,
        "save_steps": 3,
        "log_source_loss": True,
        "lr_scheduler": "rex",
    }
    keys |= VALIDATION
    pipeline.train(config_of(write_config("a.yml", **keys)))
    whole, out = untimed(tmp_path / "out"), tmp_path / "out"
    shutil.copytree(out, tmp_path / "cut")
    for folder in ("checkpoint-6", "checkpoint-8"):
        shutil.rmtree(tmp_path / "cut" / folder)
    metrics = tmp_path / "cut/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 9, "lo')
    again = {**keys, "auto_resume_from_checkpoints": True}
    pipeline.train(config_of(write_config("b.yml", **again, output_dir=str(tmp_path / "cut"))))
    assert untimed(tmp_path / "cut") == whole
    assert same(out, tmp_path / "cut")
    # In another folder the lines before the checkpoint come from the checkpoint
    elsewhere = {
        **keys,
        "resume_from_checkpoint": str(out / "checkpoint-6"),
        "output_dir": str(tmp_path / "new"),
    }
    pipeline.train(config_of(write_config("c.yml", **elsewhere, learning_rate=0.5)))
    assert untimed(tmp_path / "new") == whole
    assert "`learning_rate: 0.5` has no effect" in capsys.readouterr().err


def test_early_stopping_ends_with_the_best_and_counts_on_after_a_resume(
    write_config: Any, tmp_path: Path, capsys: Any
):
    # Good at first, and ruined by a rate that restarts
    keys = {
        **LORA,
        "val_set_size": 4,
        "eval_steps": 1,
        "save_steps": 3,
        "max_steps": 30,
        "learning_rate": 0.3,
        "lr_scheduler": "constant_with_warmup",
        "warmup_steps": 12,
        "early_stopping_patience": 4,
    }
    pipeline.train(config_of(write_config("a.yml", **keys)))
    out = tmp_path / "out"
    losses = [row["eval_loss"] for row in metrics_of(out) if "eval_loss" in row][1:]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 4
    assert f"stopping at step {best + 4}: 4 validations without a better eval_loss" in capsys.readouterr().err
    assert same(out, out / f"checkpoint-{best}")
    assert not same(out, out / f"checkpoint-{(best + 4) // 3 * 3}") or (best + 4) // 3 * 3 == best
    # Cut between the best one and the end, it ends at the same step
    cut = best + 1 + (-(best + 1) % 3)
    assert best < cut < best + 4
    for folder in out.glob("checkpoint-*"):
        if int(folder.name.partition("-")[2]) > cut:
            shutil.rmtree(folder)
    ended = untimed(out)
    pipeline.train(config_of(write_config("b.yml", **keys, auto_resume_from_checkpoints=True)))
    assert untimed(out) == ended
    assert same(out, out / f"checkpoint-{best}")


def test_a_run_that_has_stopped_early_has_nothing_left_to_do(write_config: Any, tmp_path: Path, capsys: Any):
    keys = {**LORA, "val_set_size": 4, "eval_steps": 1, "save_steps": 1, "max_steps": 9, "learning_rate": 9.0}
    keys |= {"lr_scheduler": "constant", "early_stopping_patience": 2, "save_total_limit": 9}
    pipeline.train(config_of(write_config(**keys)))
    out = tmp_path / "out"
    losses = [row["eval_loss"] for row in metrics_of(out) if "eval_loss" in row][1:]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2
    # Killed after its last checkpoint, before the weights were written: they are those of the best one.
    (out / "adapter_model.safetensors").unlink()
    pipeline.train(config_of(write_config(**keys, auto_resume_from_checkpoints=True)))
    assert "nothing to do" in capsys.readouterr().out
    assert same(out, out / f"checkpoint-{best}")


def test_load_best_can_go_by_perplexity_and_by_its_own_rhythm(write_config: Any, tmp_path: Path):
    # The rate rises to where nothing is learned: the first validation is the best, and no checkpoint is due there
    keys = {**LORA, "val_set_size": 4, "eval_steps": 3, "save_steps": 5, "max_steps": 8, "learning_rate": 0.3}
    keys |= {"load_best_model_at_end": True, "metric_for_best_model": "perplexity", "save_total_limit": 1}
    pipeline.train(config_of(write_config(**keys, lr_scheduler="constant_with_warmup", warmup_steps=12)))
    out = tmp_path / "out"
    values = {row["step"]: row["eval_loss"] for row in metrics_of(out) if "eval_loss" in row and row["step"]}
    assert min(values, key=lambda step: values[step]) == 3
    assert same(out, out / "checkpoint-3")


def test_a_plateau_halves_the_rate_at_validations(write_config: Any, tmp_path: Path):
    keys = {"lr_scheduler": "reduce_lr_on_plateau", "learning_rate": 1e-12, "max_steps": 5}
    settings = {"factor": 0.5, "patience": 0, "eps": 0}
    pipeline.train(
        config_of(write_config(**keys, lr_scheduler_kwargs=settings, val_set_size=4, eval_steps=1))
    )
    rates = [row["learning_rate"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    # Nothing is learned at such a rate: the first validation is the best, and each later one halves the rate.
    assert rates == [1e-12, 1e-12, 5e-13, 2.5e-13, 1.25e-13]


@pytest.mark.parametrize(("rate", "threshold"), [(1e-3, 0.01), (float("1e30"), 100.0)], ids=["high", "nan"])
def test_the_loss_watchdog_ends_a_run_with_an_error_and_a_checkpoint(
    write_config: Any, tmp_path: Path, rate: float, threshold: float
):
    keys = {"learning_rate": rate, "loss_watchdog_threshold": threshold, "loss_watchdog_patience": 2}
    keys |= {
        "lr_scheduler": "constant",
        "max_grad_norm": 0,
        "optimizer": "sgd",
        "save_steps": 1,
        "logging_steps": 3,
    }
    with pytest.raises(
        TrainingError, match=r"above `loss_watchdog_threshold: [\d.]+` for 2 optimizer steps"
    ) as failed:
        pipeline.train(config_of(write_config("a.yml", **keys, max_steps=8)))
    out = tmp_path / "out"
    steps = sorted(int(folder.name.partition("-")[2]) for folder in out.glob("checkpoint-*"))
    assert f"kept as checkpoint-{steps[-1]}" in str(failed.value)
    assert (out / f"checkpoint-{steps[-1]}" / "siredon.json").is_file()
    if threshold == 0.01:
        assert steps == [1, 2]
        # One failed step is behind checkpoint-1: one more ends the run that goes on from there
        shutil.rmtree(out / "checkpoint-2")
        with pytest.raises(TrainingError, match="at step 2"):
            pipeline.train(
                config_of(write_config("b.yml", **keys, max_steps=8, auto_resume_from_checkpoints=True))
            )


def test_a_touched_file_asks_for_a_checkpoint(write_config: Any, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "now.save").touch()
    request = {"enabled": True, "check_interval": 2, "trigger_file_path": "now.save"}
    pipeline.train(config_of(write_config(max_steps=5, save_strategy="no", dynamic_checkpoint=request)))
    assert [folder.name for folder in out.glob("checkpoint-*")] == ["checkpoint-2"]
    assert (out / "checkpoint-2/optimizer.pt").is_file()
    assert not (out / "now.save").exists()


@pytest.mark.long
def test_two_ranks_agree_on_rates_losses_requests_and_samples(write_config: Any, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "axolotl_checkpoint.save").touch()
    keys = {
        "val_set_size": 4,
        "eval_steps": 2,
        "max_steps": 6,
        "logging_steps": 2,
        "lr_scheduler": "rex",
        "warmup_steps": 2,
        "jagged_restart_steps": 3,
        "jagged_restart_warmup_steps": 1,
        "jagged_restart_anneal_steps": 2,
        "save_strategy": "best",
        "load_best_model_at_end": True,
        "loss_watchdog_threshold": 50,
        "generate_samples": True,
        "generation_max_new_tokens": 3,
        "dynamic_checkpoint": {"enabled": True, "check_interval": 3},
    }
    train_on_two_ranks(write_config(**keys))
    rows = [row for row in metrics_of(out) if "loss" in row]
    rex = [0, 0.5, *((6 - t) / 4 / (0.5 + (6 - t) / 8) for t in range(2, 6))]
    jagged = [1, 1, 0.5005, 0.001, 1, 0.5005]
    wanted = [1e-3 * a * b for a, b in zip(rex, jagged, strict=True)]
    assert [row["step"] for row in rows] == [1, 2, 4, 6]
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [wanted[step - 1] for step in (1, 2, 4, 6)]
    )
    assert (out / "checkpoint-3/siredon.json").is_file()
    assert not (out / "axolotl_checkpoint.save").exists()
    assert [row["step"] for row in lines_of(out / "samples.jsonl")] == [0, 0, 0, 2, 2, 2, 4, 4, 4, 6, 6, 6]
