"""On a GPU: a validation that is cut is made up for, and leaves the dropout after it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siredon.hardware import probe_hardware

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]


def test_a_run_whose_validation_is_cut_goes_on_to_the_losses_of_the_uninterrupted_one(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tests.runs.test_interrupt import KEYS, RHYTHMS, Sender
    from tests.runs.test_train import config_of, metrics_of

    from siredon import pipeline
    from siredon.errors import Interrupted
    from siredon.train.trainer import SiredonTrainer

    keys = {**KEYS, **RHYTHMS["steps"], "tf32": False}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    config = config_of(write_config("b.yml", **keys))
    with monkeypatch.context() as patch:
        # In the validation of step 4, at which a checkpoint is due too
        Sender(patch).arm(SiredonTrainer, "_sum_rows", 10)
        with pytest.raises(Interrupted) as caught:
            pipeline.train(config)
    assert caught.value.step == 4
    pipeline.train(config)
    for name in ("loss", "eval_loss"):
        plain = [(row["step"], row[name]) for row in metrics_of(tmp_path / "plain") if name in row]
        cut = [(row["step"], row[name]) for row in metrics_of(tmp_path / "out") if name in row]
        assert [step for step, _ in plain] == [step for step, _ in cut]
        # Other dropout would move them by more than 1e-2
        assert [value for _, value in cut] == pytest.approx([value for _, value in plain], abs=1e-4), name
