"""A run that hangs shows the stacks of every rank, and ends with status 1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from siredon.train.callbacks.stall import StallWatch

#: Trains, and hangs in the fourth step, in what `HANGS` names.
HANGING = """
import os, sys, time
from siredon import pipeline
from siredon.config.load import load_config
from siredon.data.collate import Collator
from siredon.train.trainer import SiredonTrainer

owner, name = {"step": (SiredonTrainer, "run_model"), "loader": (Collator, "__call__")}[os.environ["HANGS"]]
whole, calls = getattr(owner, name), [0]

def wait_for_ever(*args, **options):
    calls[0] += 1
    if calls[0] > 6 and os.environ.get("RANK", "0") == os.environ.get("HANGING_RANK", "0"):
        time.sleep(1000)
    return whole(*args, **options)

setattr(owner, name, wait_for_ever)
config, _ = load_config(sys.argv[1])
pipeline.train(config)
"""


@pytest.mark.parametrize(("hangs", "ranks"), [("loader", 1), pytest.param("step", 2, marks=pytest.mark.long)])
def test_a_run_that_hangs_shows_where_and_ends(write_config: Any, tmp_path: Path, hangs: str, ranks: int):
    config = write_config(max_steps=8, stall_timeout=6, save_strategy="no")
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [sys.executable, *(launcher if ranks > 1 else []), str(script), str(config)],
        env={**os.environ, "HANGS": hangs, "HANGING_RANK": str(ranks - 1)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert "nothing was finished for" in done.stderr
    assert "stall_timeout" in done.stderr
    for number in range(ranks):
        stacks = (tmp_path / "out" / "stall" / f"rank-{number}.txt").read_text()
        assert stacks.startswith(f"error: rank {number}, after step {3 if hangs == 'step' else 2}:")
        assert "Thread" in stacks
    assert "wait_for_ever" in stacks


def test_the_limit_follows_the_slowest_recent_step(tmp_path: Path):
    watch = StallWatch(tmp_path, None)
    assert watch.find_limit() == 3600
    watch._recent.extend([1.0, 50.0, 2.0])
    assert watch.find_limit() == 1000
    watch._recent.extend([3.0] * 50)
    assert watch.find_limit() == 600
    asked = StallWatch(tmp_path, 7.0)
    assert asked.find_limit() == 3600
    asked._recent.append(100.0)
    assert asked.find_limit() == 7
    asked.beat(busy=True)
    assert asked._deadline - time.monotonic() > 3500
    asked.close()
