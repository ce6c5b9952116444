"""A few of the trials of `tests/faults.py`, which anybody can make more of."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests import faults

from siredon.errors import explain_lost_process


@pytest.mark.long
def test_runs_that_something_happens_to_go_on_to_the_same_bits(tmp_path: Path):
    bench = faults.Bench(tmp_path)
    assert faults.report_trials(bench, signal.SIGKILL, 4) == 0
    assert faults.report_trials(bench, signal.SIGTERM, 4) == 0
    assert faults.report_odd(bench) == 0


def test_a_lost_process_is_told_from_other_errors():
    lost = explain_lost_process(RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "))
    assert lost is not None
    assert "dataloader_num_workers" in str(lost)
    assert (
        explain_lost_process(RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly")) is not None
    )
    assert explain_lost_process(RuntimeError("size mismatch")) is None
    gloo = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4")
    assert "another rank" in str(explain_lost_process(gloo))
