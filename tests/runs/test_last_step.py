"""Memory runs out on one of two ranks, or on both: the last step that was finished is saved, and everybody ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.runs.test_ranks import train_on_two_ranks
from tests.runs.test_train import LORA
from tests.runs.test_watching import same, untimed

from siredon.train.publish import find_fault, list_checkpoints

#: Trains, and lets memory run out as PyTorch's allocator says it: on some ranks, in some pass, at some moment of it.
FAILING = """
import os, sys, time
from contextlib import contextmanager
from accelerate.optimizer import AcceleratedOptimizer
from siredon.cli.app import main
from siredon.train import last_step
from siredon.train.reference import StartWeights
from siredon.train.saving import SavingTrainer
from siredon.train.trainer import SiredonTrainer

moment, at = os.environ["MOMENT"], int(os.environ["AT"])
calls = [0]
last_step._SECONDS_FOR_PASS = float(os.environ.get("FOR_PASS", last_step._SECONDS_FOR_PASS))

def fail(*_):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes")

def is_due():
    calls[0] += 1
    return calls[0] == at and os.environ["RANK"] in os.environ["FAILING"].split(",")

owner, name = {
    "forward": (SiredonTrainer, "compute_loss"),
    "backward": (SiredonTrainer, "compute_loss"),
    "behind the sum": (SavingTrainer, "training_step"),
    "update": (AcceleratedOptimizer, "step"),
}[moment]
whole = getattr(owner, name)

def failing(*args, **options):
    due = is_due()
    if due and moment == "forward":
        fail()
    found = whole(*args, **options)
    if due and moment == "backward":
        # The last gradient, when those of other weights are on their way to the other ranks
        weight = next(weight for weight in args[0].model.parameters() if weight.requires_grad)
        hook = weight.register_hook(lambda _: (hook.remove(), fail()))
    elif due:
        fail()
    return found

setattr(owner, name, failing)
standing_in, stays = StartWeights.standing_in, [0]

@contextmanager
def stay(self):
    stays[0] += 1
    with standing_in(self):
        if stays[0] == at and os.environ["RANK"] == os.environ.get("STAYING"):
            time.sleep(4)
        yield

StartWeights.standing_in = stay
sys.argv = ["siredon", "train", sys.argv[1]]
main()
"""
KEYS = {
    **LORA,
    "lora_dropout": 0.2,
    "max_steps": 5,
    "num_epochs": 2,
    "val_set_size": 4,
    "eval_steps": 2,
    "save_steps": 100,
    "logging_steps": 2,
    "log_source_loss": True,
}


def run_out(tmp_path: Path, config: Path, **variables: str) -> str:
    """Runs on two ranks until memory runs out; what they say."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr.split("torch/distributed")[0], done.stderr[-3000:]
    return done.stderr


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What two checkpoints of the same step have alike: all but times, and rhythms of saving."""
    found: dict[str, Any] = {
        path.name: torch.load(path, weights_only=False)
        for path in [*folder.glob("rng_state*"), folder / "optimizer.pt", folder / "scheduler.pt"]
    }
    found["weights"] = load_file(folder / "adapter_model.safetensors")
    found["facts"] = json.loads((folder / "siredon.json").read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    found["state"] = {name: state[name] for name in ("epoch", "global_step", "total_flos", "best_metric")}
    return found


def are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    return bool(one == other)


@pytest.mark.long
def test_the_last_step_is_saved_and_goes_on_to_the_same_bits(write_config: Any, tmp_path: Path):
    out, plain = tmp_path / "out", tmp_path / "plain"
    train_on_two_ranks(write_config("plain.yml", **KEYS | {"save_steps": 1}, output_dir=str(plain)))
    config = write_config(**KEYS, auto_resume_from_checkpoints=True)
    # The second micro-batch of step 3, whose gradients are summed up, on the rank that does not write
    said = run_out(tmp_path, config, FAILING="1", MOMENT="backward", AT="6")
    assert "error: rank 1: out of memory: a batch of step 3, " in said
    assert "any of these fits" in said.lower()
    assert said.count(f"step 2 is saved in {out}/checkpoint-2") == 2
    assert "error: rank 0: ended with rank 1, whose memory has run out in step 3; step 2 is saved" in said
    assert find_fault(out / "checkpoint-2", by_hash=True) == ""
    assert {path.name for path in (out / "checkpoint-2").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    # The first micro-batch of step 4, on the rank that writes; then both at once
    said = run_out(tmp_path, config, FAILING="0", MOMENT="forward", AT="3")
    assert "error: rank 0: out of memory: a batch of step 4, " in said
    assert "error: rank 1: ended with rank 0, whose memory has run out in step 4; step 3 is saved" in said
    said = run_out(tmp_path, config, FAILING="0,1", MOMENT="backward", AT="4")
    for number in range(2):
        assert f"error: rank {number}: out of memory: a batch of step 5, " in said
    assert [path.name for path in list_checkpoints(out)] == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert not any(find_fault(path, by_hash=True) for path in list_checkpoints(out))
    for step in (2, 3, 4):
        saved, usual = (read_checkpoint(folder / f"checkpoint-{step}") for folder in (out, plain))
        assert [name for name in usual if not are_equal(saved[name], usual[name])] == []
    train_on_two_ranks(config)
    assert same(plain, out)
    for one, other in zip(untimed(plain), untimed(out), strict=True):
        # The mean of ranks is what a checkpoint has of a log line that is not full yet: it is rounded once more
        assert one.pop("loss", 0.0) == pytest.approx(other.pop("loss", 0.0), rel=1e-6)
        assert one == other


@pytest.mark.long
def test_weights_of_a_reference_are_not_taken_for_those_in_training(write_config: Any, tmp_path: Path):
    rows = [
        {
            "messages": [{"role": "user", "content": f"Is {number} more?"}],
            "chosen": f"Yes, {number} is good.",
            "rejected": "No.",
        }
        for number in range(24)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"rl": "dpo", "datasets": [{"path": str(pairs), "type": "chat_template.default"}], "max_steps": 3}
    train_on_two_ranks(write_config("plain.yml", **keys, save_steps=1, output_dir=str(tmp_path / "plain")))
    config = write_config(**keys, save_steps=100)
    # Rank 0 is in the middle of a pass, with the reference's weights in the model, when it is told
    run_out(tmp_path, config, FAILING="1", MOMENT="forward", AT="6", STAYING="0")
    saved, usual = (
        load_file(tmp_path / name / "checkpoint-2" / "model.safetensors") for name in ("out", "plain")
    )
    start = load_file(tmp_path / "plain" / "checkpoint-1" / "model.safetensors")
    assert not are_equal(usual, start)
    assert are_equal(saved, usual)


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "at", "words"),
    [
        ("update", "3", "what follows the passes of step 3"),
        ("behind the sum", "6", "step 2 could not be saved, and the last checkpoint stands: rank 0 was past that step"),
    ],
)  # fmt: skip
def test_nothing_is_saved_once_weights_have_moved(
    write_config: Any, tmp_path: Path, moment: str, at: str, words: str
):
    said = run_out(tmp_path, write_config(**KEYS), FAILING="1", MOMENT=moment, AT=at, FOR_PASS="3")
    assert "error: rank 1: out of memory: " in said
    assert words in said
    assert ("could not be saved" in said) == (moment != "update")
    assert list_checkpoints(tmp_path / "out") == []
