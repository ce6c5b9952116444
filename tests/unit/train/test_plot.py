"""The picture of a run."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from siredon.train.plot import plot_losses


def draw(folder: Path, *rows: dict[str, Any]) -> tuple[int, int]:
    """Width and height of the picture of a run that logged these rows."""
    metrics, picture = folder / "metrics.jsonl", folder / "loss.png"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_losses(metrics, picture)
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


def test_margins_have_a_panel_of_their_own(tmp_path: Path):
    alone = draw(tmp_path, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
    pairs = draw(
        tmp_path,
        {"step": 0, "eval_loss": 0.7, "eval_rewards/margins": 0.0},
        {"step": 1, "loss": 0.7, "rewards/margins": 0.1},
    )
    assert alone == (864, 504)
    assert pairs == (864, 720)


def test_nothing_is_drawn_of_a_run_without_a_loss(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval_loss": 1.0}\n')
    assert not plot_losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert not plot_losses(tmp_path / "none.jsonl", tmp_path / "loss.png")
