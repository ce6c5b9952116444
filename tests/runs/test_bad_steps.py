"""Runs that go wrong: what a bad step does to weights, files and the rest of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import build_model
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.config.sections.bad_steps import BadStepSection
from siredon.errors import TrainingError
from siredon.train.bad_steps import GRADIENT, GRADIENT_SPIKE, LOSS, LOSS_SPIKE, Judge
from siredon.train.callbacks.bad_step import BadStep

#: Two rows a step, in the order of the file: these make step 5 bad, or steps 5 and 7.
BAD_ROW, BAD_STEP, SECOND_ROW = 9, 5, 12
KEYS: dict[str, Any] = {
    "curriculum_sampling": True,
    "lr_scheduler": "constant",
    "weight_decay": 0.1,
    "max_steps": 8,
    "save_steps": 3,
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="session")
def poisoned_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a token whose embedding is infinite."""
    folder = tmp_path_factory.mktemp("poisoned")
    model = build_model(len(tokenizer), tied=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<s>")] = float("inf")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write(write_config: Any, tmp_path: Path, poisoned_folder: Path) -> Any:
    """Writes a config with bad rows, or one without the rows of some steps."""

    def write_one(
        name: str = "a", bad: tuple[int, ...] = (BAD_ROW,), without: tuple[int, ...] = (), **changes: Any
    ) -> Path:
        path: Path = write_config(f"{name}.yml", **{**KEYS, "base_model": str(poisoned_folder), **changes})
        texts = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        for number in bad:
            texts[number]["messages"][-1]["content"] += " <s>"
        kept = [row for number, row in enumerate(texts) if number // 2 + 1 not in without]
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in kept))
        path.write_text(path.read_text().replace(str(tmp_path / "rows.jsonl"), str(data)))
        return path

    return write_one


def same(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_moments(one: Path, other: Path) -> bool:
    a, b = (torch.load(folder / "optimizer.pt")["state"] for folder in (one, other))
    return all(torch.equal(a[key][name], b[key][name]) for key in a for name in a[key])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_skip_and_rollback_end_as_if_the_batch_had_never_been(
    write: Any, tmp_path: Path, adapter: dict[str, Any], capsys: Any
):
    # The slow truth: a file without the rows of the step
    truth, skipped, rolled = tmp_path / "truth", tmp_path / "skipped", tmp_path / "rolled"
    keys = {**adapter} if adapter else {"weight_decay": 0}  # 0.1 of infinity is none the less
    pipeline.train(config_of(write("truth", without=(BAD_STEP,), **keys, max_steps=7, output_dir=str(truth))))
    pipeline.train(config_of(write("skip", **keys, on_bad_step="skip", output_dir=str(skipped))))
    shown = capsys.readouterr().err
    path = skipped / f"bad_steps/step-{BAD_STEP:06d}.jsonl"
    assert "step 5 is bad: the loss is no finite number and the gradient is not finite" in shown
    assert str(path) in shown
    assert same(truth, skipped)
    assert same_moments(truth / "checkpoint-7", skipped / "checkpoint-8")

    pipeline.train(config_of(write("roll", **keys, on_bad_step="rollback", output_dir=str(rolled))))
    assert f"rolled back to {rolled / 'checkpoint-3'}; step 5 will be passed over" in capsys.readouterr().err
    assert same(truth, rolled)
    assert same_moments(truth / "checkpoint-7", rolled / "checkpoint-8")
    for folder in (skipped, rolled):
        losses = {row["step"]: row["loss"] for row in metrics_of(folder) if "loss" in row}
        assert list(losses) == list(range(1, 9))
        assert [step for step, loss in losses.items() if loss != loss] == [BAD_STEP]
        true = [row["loss"] for row in metrics_of(truth) if "loss" in row]
        assert [loss for loss in losses.values() if loss == loss] == true

    # Killed before the next checkpoint: the list in the folder is read; after it, the checkpoint has the list
    for last in (3, 6):
        for folder in rolled.glob("checkpoint-*"):
            if int(folder.name.partition("-")[2]) > last:
                shutil.rmtree(folder)
        if last == 6:
            (rolled / "bad_steps/skipped.json").unlink()
        again = {"auto_resume_from_checkpoints": True, "on_bad_step": "stop", "output_dir": str(rolled)}
        pipeline.train(config_of(write("roll", **keys, **again)))
        assert same(truth, rolled)
        assert same_moments(truth / "checkpoint-7", rolled / "checkpoint-8")


def test_a_run_stops_at_a_bad_step_and_keeps_its_rows(write: Any, tmp_path: Path, tokenizer: Any):
    with pytest.raises(TrainingError, match=r"step 5 is bad: .* its rows are in .*step-000005\.jsonl"):
        pipeline.train(config_of(write(**LORA, sample_packing=False)))
    out = tmp_path / "out"
    assert not (out / "adapter_model.safetensors").exists()
    rows = rows_of(out / "bad_steps/step-000005.jsonl")
    assert [(row["micro_batch"], row["row"], row["prepared_row"]) for row in rows] == [(0, 0, 8), (1, 0, 9)]
    assert [row["loss"] == row["loss"] for row in rows] == [True, False]
    assert rows[1]["text"].rstrip().endswith("<s><|im_end|>")
    assert tokenizer.decode(rows[0]["input_ids"]) == rows[0]["text"]
    assert all(row["num_targets"] == sum(row["learned"]) > 0 for row in rows)


def test_the_rows_of_a_pack_have_losses_of_their_own(write: Any, tmp_path: Path):
    out = tmp_path / "out"
    for flat in (False, True):
        shutil.rmtree(out, ignore_errors=True)
        keys = {"micro_batch_size": 2, "sample_packing": True, "multipack_real_batches": not flat}
        with pytest.raises(TrainingError, match="is bad"):
            pipeline.train(config_of(write(**LORA, **keys)))
        (path,) = (out / "bad_steps").glob("step-*.jsonl")
        rows = rows_of(path)
        bad = [row for row in rows if row["loss"] != row["loss"]]
        assert len(rows) > 4
        assert [row["prepared_row"] for row in bad] == [BAD_ROW]
        assert all(row["text"].startswith("<|im_start|>") for row in rows)


def test_a_rollback_without_a_checkpoint_begins_anew_and_a_limit_ends_it(
    write: Any, tmp_path: Path, capsys: Any
):
    keys = {**LORA, "on_bad_step": "rollback", "save_steps": 6, "bad_step_window": 2}
    truth, out = tmp_path / "truth", tmp_path / "out"
    passed = {"without": (4, 5), "max_steps": 6, "output_dir": str(truth)}
    pipeline.train(config_of(write("truth", **{**keys, **passed})))
    pipeline.train(config_of(write(**keys)))
    assert "rolled back to the start; steps 4 to 5 will be passed over" in capsys.readouterr().err
    assert same(truth, out)
    assert not (out / "earlier").exists()
    assert json.loads((out / "run.json").read_text())["resumed_from"] == "the start, by a rollback"

    # Two bad steps, the second one behind a checkpoint that lies in its window
    bad = (BAD_ROW, SECOND_ROW)
    with pytest.raises(TrainingError, match=r"step 7 is bad.*`bad_step_limit: 1` is used up"):
        pipeline.train(config_of(write("two", bad=bad, **keys, bad_step_limit=1)))
    passed = {"without": (4, 5, 6, 7), "max_steps": 4, "output_dir": str(truth)}
    pipeline.train(config_of(write("truth", bad=bad, **{**keys, **passed})))
    pipeline.train(config_of(write("two", bad=bad, **keys)))
    listed = json.loads((out / "bad_steps/skipped.json").read_text())["windows"]
    assert [(window["first"], window["last"], window["back_to"]) for window in listed] == [
        (4, 5, 0),
        (6, 7, 0),
    ]
    assert same(truth, out)
    with pytest.raises(TrainingError, match=r"step 7 is bad.*`bad_step_limit: 1` is used up"):
        pipeline.train(config_of(write("skip", bad=bad, **{**keys, "on_bad_step": "skip"}, bad_step_limit=1)))


@pytest.mark.parametrize("policy", ["skip", "rollback", "stop"])
def test_a_verdict_that_stays_on_the_device_gives_the_same(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
):
    # As on a GPU: a fused AdamW skips by itself, and the verdict is read with the next step or log line
    keys = {**LORA, "optimizer": "adamw_torch_fused", "logging_steps": 8}
    truth, out = tmp_path / "truth", tmp_path / "out"
    passed = {"without": (BAD_STEP,), "max_steps": 7, "output_dir": str(truth)}
    pipeline.train(config_of(write("truth", **{**keys, **passed})))
    monkeypatch.setattr(BadStep, "_asks_at_once", False)
    path = write(**keys, on_bad_step=policy)
    if policy == "stop":
        with pytest.raises(TrainingError, match="step 5 is bad"):
            pipeline.train(config_of(path))
    else:
        pipeline.train(config_of(path))
        assert same(truth, out)
        true = [row["loss"] for row in metrics_of(truth) if "loss" in row]
        found = [row["loss"] for row in metrics_of(out) if "loss" in row]
        assert found == pytest.approx([true[0], *found[1:]], abs=1e-6)
        assert all(loss == loss for loss in found)
    rows = rows_of(out / "bad_steps/step-000005.jsonl")
    # The weights are still good when the rows are measured
    assert [row["loss"] == row["loss"] for row in rows] == [True, False]


def test_a_spike_is_skipped_and_the_window_survives_a_resume(write: Any, tmp_path: Path, capsys: Any):
    keys = {"spike_factor": 2, "spike_window": 8, "on_bad_step": "skip", "max_steps": 28, "save_steps": 22}
    path = write("spike", bad=(), **keys)
    data = tmp_path / "spike.jsonl"
    row = json.loads(data.read_text().splitlines()[0])
    other = {"role": "assistant", "content": "Zq#9 ~x }{ @@ ^^"}
    # One row is learned by heart, and step 26 has another one
    rows = [row] * 50 + [{"messages": [row["messages"][0], other]}] + [row] * 9
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pipeline.train(config_of(path))
    out = tmp_path / "out"
    assert capsys.readouterr().err.count("step 26 is bad: the loss is a spike") == 1
    assert [path.name for path in (out / "bad_steps").iterdir()] == ["step-000026.jsonl"]
    kept = weights_of(out)
    # Without what the checkpoint remembers, half a window would not be there at step 26
    shutil.rmtree(out / "checkpoint-28")
    path.write_text(path.read_text() + "auto_resume_from_checkpoints: true\n")
    pipeline.train(config_of(path))
    assert "step 26 is bad: the loss is a spike" in capsys.readouterr().err
    assert all(torch.equal(kept[name], value) for name, value in weights_of(out).items())


def test_a_spike_is_above_the_slow_bound_and_noise_is_none():
    section = BadStepSection(spike_factor=3.0, grad_spike_factor=3.0)
    rng = np.random.default_rng(0)
    # Losses of small batches, which fall, and norms with a heavy tail
    losses = 1 + 2 * np.exp(-np.arange(3000) / 300) + 0.3 * rng.standard_normal(3000)
    norms = np.exp(0.4 * rng.standard_normal(3000))
    judge = Judge(section, torch.device("cpu"))
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        past = np.stack([losses, norms]).astype(np.float32)[:, max(0, number - 64) : number]
        if number >= 32 and number % 100 == 0:
            middle = np.sort(past, axis=1)[:, (past.shape[1] - 1) // 2]
            mad = np.sort(np.abs(past - middle[:, None]), axis=1)[:, (past.shape[1] - 1) // 2]
            truth = np.maximum(3 * middle, middle + 8 * 1.4826 * mad)
            assert judge.bound().numpy() == pytest.approx(truth, rel=1e-6)
        assert int(judge.judge_(torch.tensor(loss), torch.tensor(norm))) == 0, number
    good, bound = judge.recent.clone(), judge.bound()
    assert int(judge.judge_(bound[0] * 1.01, torch.tensor(1.0))) == LOSS_SPIKE
    assert int(judge.judge_(torch.tensor(float("nan")), bound[1] * 1.01)) == LOSS | GRADIENT_SPIKE
    assert int(judge.judge_(torch.tensor(1.0), torch.tensor(float("inf")))) == GRADIENT
    assert torch.equal(judge.recent, good)


def test_ignore_goes_on_and_the_watchdog_alone_decides_where_it_is_set(write: Any, tmp_path: Path):
    out = tmp_path / "out"
    pipeline.train(config_of(write(**LORA, on_bad_step="ignore", max_steps=6)))
    assert not (out / "bad_steps").exists()
    with pytest.raises(TrainingError, match="loss_watchdog_threshold"):
        pipeline.train(config_of(write(**LORA, loss_watchdog_threshold=100, loss_watchdog_patience=2)))


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_two_ranks_decide_the_same(write: Any, tmp_path: Path, policy: str):
    truth, out = tmp_path / "truth", tmp_path / "out"
    keys = {**LORA, "gradient_accumulation_steps": 1, "on_bad_step": policy}
    passed = {"without": (BAD_STEP,), "max_steps": 7, "output_dir": str(truth)}
    pipeline.train(config_of(write("truth", **{**keys, **passed, "gradient_accumulation_steps": 2})))
    shown = train_on_two_ranks(write(**keys))
    assert shown.count("step 5 is bad") == 1
    first, second = weights_of(truth), weights_of(out)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4
    found = [rows_of(out / f"bad_steps/step-000005.rank{rank}.jsonl") for rank in (0, 1)]
    assert [[row["prepared_row"] for row in rows] for rows in found] == [[8], [9]]
