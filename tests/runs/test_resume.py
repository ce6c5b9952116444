"""A run stopped anywhere and resumed is the uninterrupted one, bit for bit; and what may change in between."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import ROOT
from tests.runs.test_checkpoints import run_apart
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA, config_of, weights_of
from tests.runs.test_watching import untimed

from siredon import pipeline
from siredon.errors import CheckpointError

#: 20 training rows, or packs of them; 4 sequences a step, 2 epochs.
KEYS = {
    "sequence_len": 128,
    "num_epochs": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "bf16": False,
    "val_set_size": 4,
    "logging_steps": 2,
    "eval_steps": 3,
    "save_steps": 1,
    "save_total_limit": 100,
}


@dataclass(frozen=True)
class Case:
    """One way to train, and where it is stopped."""

    stop: str
    adapter: str
    packed: bool
    workers: int
    ranks: int

    @property
    def name(self) -> str:
        packed = "packed" if self.packed else "rows"
        return f"{self.stop}-{self.adapter}-{packed}-{self.workers}-workers-{self.ranks}-ranks"

    @property
    def keys(self) -> dict[str, Any]:
        lora = {**LORA, "lora_dropout": 0.2} if self.adapter == "lora" else {"max_grad_norm": 0.5}
        steps = 4 // self.ranks
        return {
            **KEYS,
            **lora,
            "sample_packing": self.packed,
            "dataloader_num_workers": self.workers,
            "gradient_accumulation_steps": steps,
        }


CHOICES: dict[str, tuple[Any, ...]] = {
    "stop": ("mid-epoch", "epoch's end", "second epoch"),
    "adapter": ("full", "lora"),
    "packed": (False, True),
    "workers": (0, 2),
    "ranks": (1, 2),
}
CASES = (
    Case("mid-epoch", "full", False, 0, 1),
    Case("mid-epoch", "lora", True, 2, 2),
    Case("epoch's end", "full", True, 2, 1),
    Case("epoch's end", "lora", False, 0, 2),
    Case("second epoch", "full", True, 0, 2),
    Case("second epoch", "lora", False, 2, 1),
)


def test_every_pair_of_choices_occurs():
    for one, other in combinations(CHOICES, 2):
        found = {(vars(case)[one], vars(case)[other]) for case in CASES}
        assert found == set(product(CHOICES[one], CHOICES[other]))


def train_on(ranks: int, path: Path) -> str:
    """Gives what two ranks said."""
    if ranks == 2:
        return train_on_two_ranks(path)
    pipeline.train(config_of(path))
    return ""


class Runs:
    """Configs and runs of one folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:24]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        self.least = {
            "base_model": str(model),
            "datasets": [{"path": str(folder / "rows.jsonl"), "type": "chat_template"}],
            "dataset_prepared_path": str(folder / "prepared"),
        }

    def write(self, name: str, **keys: Any) -> Path:
        """A config whose output is the folder of that name."""
        path = self.folder / f"{name}.yml"
        values = {**self.least, **keys, "output_dir": str(self.folder / name)}
        path.write_text(yaml.safe_dump(values))
        return path

    def whole(self, number: int) -> Path:
        """The uninterrupted run of a case, made once."""
        name, case = f"whole{number}", CASES[number]
        if not (self.folder / name).exists():
            train_on(case.ranks, self.write(name, **case.keys))
        return self.folder / name

    def cut(self, name: str, new: str, step: int) -> None:
        """A copy of a run as it was when it was killed after a checkpoint."""
        whole, cut = self.folder / name, self.folder / new
        shutil.copytree(whole, cut, symlinks=True)
        for path in cut.glob("checkpoint-*"):
            if int(path.name.partition("-")[2]) > step:
                shutil.rmtree(path)
        for path in cut.glob("*model.safetensors"):
            path.unlink()


def last_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


def assert_same_state(one: Any, other: Any, where: str = "") -> None:
    """Equal to the bit, tensors and all."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_state(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_state(a, b, f"{where}/{index}")
    elif type(one).__module__ == "numpy":
        assert (one == other).all(), where
    else:
        assert one == other, where


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("resume"), model_folder)


def count_steps(folder: Path) -> int:
    steps = int(json.loads((folder / "run.json").read_text())["num_steps"])
    assert steps >= 6, "two epochs of three steps"
    return steps


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=case.name, marks=[pytest.mark.long] if case.ranks > 1 else [])
        for number, case in enumerate(CASES)
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(runs: Runs, number: int):
    case, whole, cut = CASES[number], runs.whole(number), runs.folder / f"cut{number}"
    half = count_steps(whole) // 2
    runs.cut(whole.name, cut.name, {"mid-epoch": 2, "epoch's end": half, "second epoch": half + 1}[case.stop])
    train_on(case.ranks, runs.write(cut.name, **case.keys, auto_resume_from_checkpoints=True))
    assert json.loads((cut / "run.json").read_text())["resumed_from"]
    assert_same_state(weights_of(cut), weights_of(whole))
    ends = last_checkpoint(whole), last_checkpoint(cut)
    names = [{path.name for path in end.iterdir()} for end in ends]
    assert names[0] == names[1]
    states = [name for name in names[0] if name in ("optimizer.pt", "scheduler.pt") or name.endswith(".pth")]
    assert len(states) == 2 + case.ranks
    for name in states:
        assert_same_state(load(ends[0] / name), load(ends[1] / name), name)
    kept = [json.loads((end / "siredon.json").read_text()) for end in ends]
    assert kept[0] == kept[1]
    assert untimed(cut) == untimed(whole)


@pytest.mark.long
@pytest.mark.parametrize(("number", "ranks"), [(0, 2), (4, 1)], ids=["one to two", "two to one"])
def test_another_number_of_ranks_takes_the_same_steps(runs: Runs, capfd: Any, number: int, ranks: int):
    whole, name = runs.whole(number), f"ranks{ranks}"
    runs.cut(whole.name, name, count_steps(whole) // 2 + 1)
    keys = {**CASES[number].keys, "gradient_accumulation_steps": 4 // ranks}
    said = train_on(ranks, runs.write(name, **keys, auto_resume_from_checkpoints=True))
    said += capfd.readouterr().err
    assert f"num_ranks: {3 - ranks} -> {ranks} (warned: a step has the same 4 sequences" in said
    losses = [
        [row["loss"] for row in untimed(folder) if "loss" in row] for folder in (whole, runs.folder / name)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6 * max(losses[0]))


def test_another_schedule_is_refused_with_every_difference(runs: Runs):
    whole = runs.whole(0)
    keys = {**CASES[0].keys, "lr_scheduler": "linear", "logging_steps": 1, "gradient_checkpointing": True}
    named = {"resume_from_checkpoint": str(whole / "checkpoint-2")}
    for schedule in ("linear", "reduce_lr_on_plateau"):
        path = runs.write("another", **{**keys, **named, "lr_scheduler": schedule})
        with pytest.raises(CheckpointError) as found:
            pipeline.train(config_of(path))
        said = str(found.value)
        assert (
            f"\n  lr_scheduler: cosine -> {schedule} (refused: it decides what is trained, and how)" in said
        )
        assert "\n  gradient_checkpointing: False -> True (warned: sums are made" in said
        assert "logging_steps" not in said
        assert "Set back what is refused" in said
    assert not (runs.folder / "another").exists()


def test_a_run_of_another_length_goes_on_with_the_curve_of_that_length(runs: Runs, capsys: Any):
    whole = runs.whole(0)
    num_steps = count_steps(whole)
    runs.cut(whole.name, "shorter", 2)
    changes = {
        "num_epochs": 1,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "auto_resume_from_checkpoints": True,
    }
    path = runs.write("shorter", **{**CASES[0].keys, **changes})
    pipeline.train(config_of(path))
    said = capsys.readouterr().err
    assert (
        f"optimizer steps: {num_steps} -> {num_steps // 2} (warned: the learning rate of step 4 was to be"
        in said
    )
    assert "`learning_rate: 0.005` has no effect: the run goes on with that of its checkpoint, 0.001" in said
    # The peak of the checkpoint, on the curve of the new length: a warm-up of 2 steps, then a cosine
    last = num_steps // 2
    wanted = {step: 5e-4 * (1 + math.cos(math.pi * (step - 3) / (last - 2))) for step in range(3, last + 1)}
    rows = [row for row in untimed(runs.folder / "shorter") if row.get("step", 0) > 2 and "loss" in row]
    assert {row["step"]: row["learning_rate"] for row in rows} == pytest.approx(wanted)


class DieAtOpen:
    """Kills this process when a file is opened to be added to for the k-th time."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.left = name, number

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).endswith(self.name) and args[1] == "a":
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_at_the_end_of_a_validation_leaves_neither_gap_nor_repeat(runs: Runs):
    """Step 3 has a validation, whose line is the third after those of the first validation and of step 2."""
    whole = runs.whole(0)
    names = [("eval_loss" in row, row["step"]) for row in untimed(whole)]
    number = names.index((True, 3)) + 1
    keys = CASES[0].keys | {"auto_resume_from_checkpoints": True}
    config = config_of(runs.write("killed", **keys))

    def train() -> None:
        sys.addaudithook(DieAtOpen("metrics.jsonl", number))
        pipeline.train(config)

    status, said = run_apart(train)
    assert status == -signal.SIGKILL, said
    # The step is logged, its validation is not, and the last checkpoint is the one before
    out = runs.folder / "killed"
    assert untimed(out) == untimed(whole)[: number - 1]
    assert last_checkpoint(out).name == "checkpoint-2"
    pipeline.train(config)
    assert untimed(out) == untimed(whole)
    assert_same_state(weights_of(out), weights_of(whole))
