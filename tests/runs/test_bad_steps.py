"""Runs that go wrong: what a bad step does to weights, files and the rest of the run."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import build_model
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, metrics_of, weights_of

from siredon import pipeline
from siredon.errors import TrainingError
from siredon.hardware import Hardware
from siredon.train import rollback
from siredon.train.callbacks.bad_step import BadStep
from siredon.train.trainer import SiredonTrainer

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


def save_poisoned(tokenizer: Any, folder: Path) -> Path:
    """A model with a token whose embedding is infinite."""
    model = build_model(len(tokenizer), tied=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<s>")] = float("inf")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_writer(write_config: Callable[..., Path], folder: Path) -> Callable[..., Path]:
    """What writes a config with bad rows, or one without the rows of some steps."""

    def write_one(
        name: str = "a", bad: tuple[int, ...] = (BAD_ROW,), without: tuple[int, ...] = (), **changes: Any
    ) -> Path:
        path = write_config(f"{name}.yml", **{**KEYS, "base_model": str(folder), **changes})
        rows = path.with_name("rows.jsonl")
        texts = [json.loads(line) for line in rows.read_text().splitlines()]
        for number in bad:
            texts[number]["messages"][-1]["content"] += " <s>"
        kept = [row for number, row in enumerate(texts) if number // 2 + 1 not in without]
        data = path.with_suffix(".jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in kept))
        path.write_text(path.read_text().replace(str(rows), str(data)))
        return path

    return write_one


@pytest.fixture(scope="session")
def poisoned_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_poisoned(tokenizer, tmp_path_factory.mktemp("poisoned"))


@pytest.fixture
def write(write_config: Any, poisoned_folder: Path) -> Callable[..., Path]:
    return make_writer(write_config, poisoned_folder)


def same(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_moments(one: Path, other: Path) -> bool:
    a, b = (torch.load(folder / "optimizer.pt")["state"] for folder in (one, other))
    return all(torch.equal(a[key][name], b[key][name]) for key in a for name in a[key])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def count_trainers_after(release: Callable[[], None]) -> int:
    """Trainers that are still held."""
    release()
    return sum(type(found) is SiredonTrainer for found in gc.get_objects())


def train(path: Path) -> None:
    pipeline.train(config_of(path))


def losses_of(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics_of(folder) if "loss" in row}


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_skip_and_rollback_end_as_if_the_batch_had_never_been(
    write: Any, tmp_path: Path, adapter: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    # The slow truth: a file without the rows of the step.  (A weight decay of 0.1 of infinity is none the less.)
    keys = {**LORA, "optimizer": "adamw_torch_fused"} if adapter == "lora" else {"weight_decay": 0}
    truth, skipped, rolled = tmp_path / "truth", tmp_path / "skipped", tmp_path / "rolled"
    train(write("truth", without=(BAD_STEP,), **keys, max_steps=7, output_dir=str(truth)))
    expected = list(losses_of(truth).values())
    expected.insert(BAD_STEP - 1, math.nan)
    alive: list[int] = []
    release = rollback.release_memory

    def release_and_count(hardware: Hardware) -> None:
        alive.append(count_trainers_after(lambda: release(hardware)))

    monkeypatch.setattr(rollback, "release_memory", release_and_count)

    train(write("skip", **keys, on_bad_step="skip", output_dir=str(skipped)))
    shown = capsys.readouterr().err
    path = skipped / f"bad_steps/step-{BAD_STEP:06d}.jsonl"
    assert "step 5 is bad: the loss is no finite number and the gradient is not finite" in shown
    assert str(path) in shown
    train(write("roll", **keys, on_bad_step="rollback", output_dir=str(rolled)))
    assert f"rolled back to {rolled / 'checkpoint-3'}; step 5 will be passed over" in capsys.readouterr().err
    assert alive == [0]
    for folder in (skipped, rolled):
        assert same(truth, folder)
        assert same_moments(truth / "checkpoint-7", folder / "checkpoint-8")
        assert list(losses_of(folder)) == list(range(1, 9))
        assert list(losses_of(folder).values()) == pytest.approx(expected, abs=0, nan_ok=True)
    if adapter == "full":
        return

    # Killed before the next checkpoint: the list in the folder is read; after it, the checkpoint has the list
    for last in (3, 6):
        for folder in rolled.glob("checkpoint-*"):
            if int(folder.name.partition("-")[2]) > last:
                shutil.rmtree(folder)
        if last == 6:
            (rolled / "bad_steps/skipped.json").unlink()
        again = {"auto_resume_from_checkpoints": True, "on_bad_step": "stop", "output_dir": str(rolled)}
        train(write("roll", **keys, **again))
        assert same(truth, rolled)
        assert same_moments(truth / "checkpoint-7", rolled / "checkpoint-8")

    # As on a GPU: a fused AdamW skips by itself, and the verdict is read with the next step or log line
    monkeypatch.setattr(BadStep, "_asks_at_once", False)
    out, good = tmp_path / "out", [loss for loss in expected if loss == loss]
    for policy in ("skip", "rollback"):
        shutil.rmtree(out, ignore_errors=True)
        train(write(**keys, on_bad_step=policy, logging_steps=8))
        assert same(truth, out)
        # The first step is logged by itself
        assert list(losses_of(out).values()) == pytest.approx([good[0], sum(good[1:]) / 6], abs=1e-6)
        # The weights are still good when the rows are measured
        rows = rows_of(out / "bad_steps/step-000005.jsonl")
        assert [math.isfinite(row["loss"]) for row in rows] == [True, False]


def test_a_run_stops_at_a_bad_step_and_keeps_its_rows(write: Any, tmp_path: Path, tokenizer: Any):
    with pytest.raises(TrainingError, match=r"step 5 is bad: .* its rows are in .*step-000005\.jsonl"):
        train(write(**LORA, sample_packing=False))
    out = tmp_path / "out"
    assert not (out / "adapter_model.safetensors").exists()
    assert (out / "latest").resolve() == out / "checkpoint-3"
    rows = rows_of(out / "bad_steps/step-000005.jsonl")
    assert [(row["micro_batch"], row["row"], row["prepared_row"]) for row in rows] == [(0, 0, 8), (1, 0, 9)]
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False]
    assert rows[1]["text"].rstrip().endswith("<s><|im_end|>")
    assert tokenizer.decode(rows[0]["input_ids"]) == rows[0]["text"]
    assert all(row["num_targets"] == sum(row["learned"]) > 0 for row in rows)
    assert {row["dataset"] for row in rows} == {"a.jsonl"}


def test_the_rows_of_a_pack_have_losses_of_their_own(write: Any, tmp_path: Path):
    out = tmp_path / "out"
    keys = {**LORA, "micro_batch_size": 2, "sample_packing": True}
    with pytest.raises(TrainingError, match="is bad"):
        train(write(**keys))
    rows = rows_of(next((out / "bad_steps").glob("step-*.jsonl")))
    assert len(rows) > 4
    assert [row["prepared_row"] for row in rows if row["loss"] != row["loss"]] == [BAD_ROW]
    assert all(row["text"].startswith("<|im_start|>") for row in rows)

    # Packs end to end, of two data sets that are mixed
    shutil.rmtree(out)
    path = write("mixed", **keys, multipack_real_batches=False, curriculum_sampling=False)
    texts = (tmp_path / "mixed.jsonl").read_text().splitlines()
    files = {tmp_path / "good.jsonl": texts[:BAD_ROW], tmp_path / "bad.jsonl": texts[BAD_ROW : BAD_ROW + 1]}
    config = yaml.safe_load(path.read_text())
    config["datasets"] = []
    for file, lines in files.items():
        file.write_text("\n".join(lines) + "\n")
        config["datasets"].append({"path": str(file), "type": "chat_template", "weight": 1})
    path.write_text(yaml.safe_dump({**config, "mix_strategy": "all_exhausted"}))
    with pytest.raises(TrainingError, match="is bad"):
        train(path)
    rows = rows_of(next((out / "bad_steps").glob("step-*.jsonl")))
    bad = [row for row in rows if row["loss"] != row["loss"]]
    assert len(rows) > len(bad) > 0
    assert {(row["prepared_row"], row["dataset"]) for row in bad} == {(BAD_ROW, "bad.jsonl")}
    assert {row["dataset"] for row in rows if row not in bad} == {"good.jsonl"}


def test_a_limit_ends_a_run_that_can_go_on_with_a_higher_one(write: Any, tmp_path: Path, capsys: Any):
    # Every checkpoint lies in the window of the first bad step, and in that of the second one
    keys = {**LORA, "bad": (BAD_ROW, SECOND_ROW), "save_steps": 3, "max_steps": 10}
    rolls = {"on_bad_step": "rollback", "bad_step_window": 5}
    truth, out = tmp_path / "truth", tmp_path / "out"
    train(write("truth", **{**keys, "max_steps": 3}, without=tuple(range(1, 8)), output_dir=str(truth)))
    with pytest.raises(TrainingError, match=r"step 7 is bad.*`bad_step_limit: 1` is used up"):
        train(write(**keys, **rolls, bad_step_limit=1))
    assert "rolled back to the start; steps 1 to 5 will be passed over" in capsys.readouterr().err
    assert not (out / "earlier").exists()
    assert json.loads((out / "run.json").read_text())["resumed_from"] == "the start, by a rollback"
    # Of the rest of that window only a checkpoint in the middle of it knows
    shutil.rmtree(out / "checkpoint-6")
    (out / "bad_steps/skipped.json").unlink()
    train(write(**keys, **rolls, auto_resume_from_checkpoints=True))
    assert (
        f"rolled back to {out / 'checkpoint-3'}; steps 4 to 7 will be passed over" in capsys.readouterr().err
    )
    listed = json.loads((out / "bad_steps/skipped.json").read_text())["windows"]
    places = [(window["first"], window["last"], window["back_to"]) for window in listed]
    assert places == [(1, 5, 0), (4, 7, 3)]
    assert same(truth, out)

    # Also where the first step of all is skipped
    limit = {"on_bad_step": "skip", "bad_step_limit": 1, "output_dir": str(tmp_path / "skipped")}
    with pytest.raises(TrainingError, match=r"step 2 is bad.*`bad_step_limit: 1` is used up"):
        train(write("skip", **{**keys, **limit, "bad": (0, 2)}))


def test_a_spike_is_skipped_and_the_window_survives_a_resume(write: Any, tmp_path: Path, capsys: Any):
    keys = {"spike_factor": 2, "spike_window": 8, "on_bad_step": "skip", "max_steps": 20, "save_steps": 16}
    path = write("spike", bad=(), **keys)
    data = tmp_path / "spike.jsonl"
    row = json.loads(data.read_text().splitlines()[0])
    other = {"role": "assistant", "content": "Zq#9 ~x }{ @@ ^^"}
    # One row is learned by heart, and step 18 has another one
    rows = [row] * 34 + [{"messages": [row["messages"][0], other]}] + [row] * 9
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(path)
    out = tmp_path / "out"
    assert capsys.readouterr().err.count("step 18 is bad: the loss is a spike") == 1
    assert [path.name for path in (out / "bad_steps").iterdir()] == ["step-000018.jsonl"]
    kept = weights_of(out)
    # Without what the checkpoint remembers, half a window would not be there at step 18
    shutil.rmtree(out / "checkpoint-20")
    path.write_text(path.read_text() + "auto_resume_from_checkpoints: true\n")
    train(path)
    assert "step 18 is bad: the loss is a spike" in capsys.readouterr().err
    assert all(torch.equal(kept[name], value) for name, value in weights_of(out).items())


def test_the_watchdog_alone_decides_where_it_is_set(write: Any, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"loss_watchdog_threshold.* for 2 optimizer steps in a row"):
        train(write(**LORA, loss_watchdog_threshold=100, loss_watchdog_patience=2))
    assert not (tmp_path / "out/bad_steps").exists()


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_two_ranks_decide_the_same(write: Any, tmp_path: Path, policy: str):
    truth, out = tmp_path / "truth", tmp_path / "out"
    keys = {**LORA, "gradient_accumulation_steps": 1, "on_bad_step": policy}
    passed = {"without": (BAD_STEP,), "max_steps": 7, "output_dir": str(truth)}
    train(write("truth", **{**keys, **passed, "gradient_accumulation_steps": 2}))
    shown = train_on_two_ranks(write(**keys))
    assert shown.count("step 5 is bad") == 1
    first, second = weights_of(truth), weights_of(out)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4
    found = [rows_of(out / f"bad_steps/step-000005.rank{rank}.jsonl") for rank in (0, 1)]
    assert [[row["prepared_row"] for row in rows] for rows in found] == [[8], [9]]
