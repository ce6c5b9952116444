"""How much a run will write, and what is said where the disk has no room for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_model

from siredon.config.load import load_config
from siredon.errors import CheckpointError
from siredon.hardware import probe_hardware
from siredon.model.precision import resolve_precision
from siredon.train import space
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.space import check_space, estimate_sizes

#: Keys of a run with 24 packs and 2 of them a step -> checkpoints at most there at once.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "steps in epochs": ({"num_epochs": 3, "save_steps": 9, "save_total_limit": 9}, 4),
    "steps up to a limit": ({"max_steps": 40, "save_steps": 2, "save_total_limit": 3}, 4),
    "a share of the steps": ({"max_steps": 40, "save_steps": 0.25, "save_total_limit": 9}, 4),
    "epochs": ({"num_epochs": 3, "save_strategy": "epoch", "save_total_limit": 9}, 3),
    "none": ({"num_epochs": 3, "save_strategy": "no"}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_room_for_all_checkpoints_that_are_there_at_once_is_asked_for(
    write_config: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    keys, num_kept = CASES[name]
    config, _ = load_config(str(write_config(**{"max_steps": ..., **keys})))
    sizes = estimate_sizes(build_model(), config.optimizer.optimizer, is_adapter=False, saves_state=True)
    weights = sum(weight.numel() * 4 for weight in build_model().parameters())
    assert (sizes.weights, sizes.optimizer) == (weights, 2 * weights)
    needed = num_kept * sizes.checkpoint + sizes.weights
    schedule = count_steps(config, 24)
    hardware = probe_hardware()
    precision = resolve_precision(config.precision, hardware, has_adapter=False)
    args = build_arguments(config, schedule, precision, hardware)
    monkeypatch.setattr(space, "read_free_bytes", lambda folder: int(needed * 1.2) + 1)
    check_space(sizes, config.checkpoint, args, schedule.num_steps)
    monkeypatch.setattr(space, "read_free_bytes", lambda folder: needed - 1)
    with pytest.raises(CheckpointError, match=f"{num_kept} checkpoints? of"):
        check_space(sizes, config.checkpoint, args, schedule.num_steps)
