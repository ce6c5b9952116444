"""On a GPU: the longest batch is tried without a trace; one that does not fit ends with changes of which each fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from siredon.hardware import limit_memory, probe_hardware, read_memory, release_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe_hardware().is_gpu, reason="this machine has no GPU"),
]

#: What a run may take on top of what is held: a batch of 256 x 256 tokens takes about 1.2 GiB.
ROOM_BYTES = 500 * 2**20

KEYS = {
    "datasets": [{"path": "_synthetic", "type": "_synthetic", "length": 256, "sequence_length": 256}],
    "excess_length_strategy": "truncate",
    "micro_batch_size": 256,
    "gradient_accumulation_steps": 1,
    "max_steps": 2,
    "save_strategy": "no",
    "tf32": False,
}


@pytest.fixture
def tighten() -> Iterator[Callable[[], None]]:
    """Leaves this process `ROOM_BYTES`; afterwards it has the whole GPU again."""
    hardware = probe_hardware()

    def leave_little() -> None:
        release_memory(hardware)
        limit_memory(hardware, (torch.cuda.memory_reserved() + ROOM_BYTES) / read_memory(hardware).total)

    yield leave_little
    limit_memory(hardware, 1.0)
    release_memory(hardware)


def test_a_probe_leaves_no_trace(write_config: Any, tmp_path: Path, capsys: Any):
    from tests.runs.test_train import LORA, config_of, metrics_of

    from siredon import pipeline

    keys = {**LORA, "lora_dropout": 0.2, "micro_batch_size": 4, "max_steps": 4, "val_set_size": 4}
    keys |= {"eval_steps": 2, "save_strategy": "no", "tf32": False}
    plain = write_config("a.yml", **keys, probe_longest_batch=False, output_dir=str(tmp_path / "plain"))
    pipeline.train(config_of(plain))
    assert "longest batch" not in capsys.readouterr().err
    pipeline.train(config_of(write_config("b.yml", **keys)))
    assert re.search(r"longest batch: 4 x \d+ tokens, .* of validation: ", capsys.readouterr().err)
    one, other = metrics_of(tmp_path / "plain"), metrics_of(tmp_path / "out")
    for name in ("loss", "eval_loss"):
        # Other dropout would move them by more than 1e-2
        expected = [row[name] for row in one if name in row]
        assert [row[name] for row in other if name in row] == pytest.approx(expected, abs=1e-4), name


def test_the_longest_batch_is_tried_twice_in_a_row(write_config: Any, monkeypatch: pytest.MonkeyPatch):
    from tests.runs.test_train import config_of

    from siredon import pipeline
    from siredon.train.trainer import SiredonTrainer

    whole, rows = SiredonTrainer.compute_loss, []

    def compute_loss(trainer: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return whole(trainer, model, inputs, *args, **options)

    monkeypatch.setattr(SiredonTrainer, "compute_loss", compute_loss)
    keys = {**KEYS, "micro_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 1}
    pipeline.train(config_of(write_config("a.yml", **keys)))
    assert rows == [8] * (2 + 2)


def test_a_batch_that_does_not_fit_is_refused_with_changes_of_which_each_fits(
    write_config: Any, tighten: Callable[[], None], capsys: Any
):
    from tests.runs.test_train import config_of

    from siredon import pipeline
    from siredon.errors import TrainingError

    tighten()
    with pytest.raises(TrainingError) as caught:
        pipeline.train(config_of(write_config("a.yml", **KEYS)))
    message = str(caught.value)
    assert "out of memory: the longest batch, 256 x 256 tokens, does not fit" in message
    assert "more were asked for" in message
    changes = re.findall(r"^    (.+?)  # [\d.]+ GiB, measured", message, re.MULTILINE)
    assert {"micro_batch_size", "sequence_len"} <= {change.split(":")[0] for change in changes}
    capsys.readouterr()
    for index, change in enumerate(changes):
        tighten()
        pipeline.train(config_of(write_config(f"{index}.yml", **{**KEYS, **yaml.safe_load(f"{{{change}}}")})))
        assert "longest batch: " in capsys.readouterr().err, change


def test_a_step_that_does_not_fit_is_made_again_row_by_row(
    write_config: Any, tmp_path: Path, tighten: Callable[[], None], capsys: Any
):
    from tests.runs.test_train import config_of, metrics_of, weights_of

    from siredon import pipeline

    keys = {**KEYS, "num_epochs": 2, "probe_longest_batch": False}
    pipeline.train(config_of(write_config("a.yml", **keys, output_dir=str(tmp_path / "plain"))))
    tighten()
    pipeline.train(config_of(write_config("b.yml", **keys, on_out_of_memory="retry")))
    assert "out of memory in step 2" in capsys.readouterr().err
    plain, out = weights_of(tmp_path / "plain"), weights_of(tmp_path / "out")
    # AdamW's first steps have the size of the learning rate, 1e-3, whatever the gradient's
    assert max((plain[name] - out[name]).abs().mean() for name in plain) < 1e-5
    expected = [row["loss"] for row in metrics_of(tmp_path / "plain") if "loss" in row]
    found = [row["loss"] for row in metrics_of(tmp_path / "out") if "loss" in row]
    assert found == pytest.approx(expected, abs=1e-4)
