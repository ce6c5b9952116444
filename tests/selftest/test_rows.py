"""Every row of the proof table passes in its quick cells, and fails with the bug planted that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from siredon.data.collate import Collator
from siredon.data.types import IGNORE
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, build_grid, find
from siredon.selftest.table import ROWS, choose_rows, try_cell
from siredon.train.trainer import SiredonTrainer


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as built:
        yield built


@pytest.mark.parametrize("name", ROWS.names())
def test_a_row_passes_in_its_quick_cells(rig: Rig, name: str):
    row = ROWS.load(name)
    cells = row.cells(build_grid(quick=True))
    assert cells
    for cell in cells:
        finding = try_cell(rig, row, cell)
        assert finding.passed, (cell.describe(), finding.worst, finding.error)


def test_a_loss_that_is_divided_by_the_targets_of_each_micro_batch_is_seen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    plain = SiredonTrainer.compute_loss

    def divide(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        count = (inputs["labels"] != IGNORE).sum() * self.args.gradient_accumulation_steps
        return plain(self, model, inputs, num_items_in_batch=count)

    monkeypatch.setattr(SiredonTrainer, "compute_loss", divide)
    rig.forget()
    assert try_cell(rig, ROWS.load("accumulation"), Cell(accumulation=4)).failed
    rig.forget()


def test_a_label_at_the_first_token_of_a_document_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = Collator.__call__

    def label(self: Any, packs: Any) -> Any:
        batch = plain(self, packs)
        starts = (batch["position_ids"] == 0) & (batch["input_ids"] != 0)
        batch["labels"][starts] = batch["input_ids"][starts]
        return batch

    monkeypatch.setattr(Collator, "__call__", label)
    rig.forget()
    assert try_cell(rig, ROWS.load("boundary_labels"), Cell(packed=True)).failed
    rig.forget()


def test_a_validation_loss_that_is_a_mean_of_means_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = SiredonTrainer._sum_rows

    def average(self: Any, model: Any, inputs: Any) -> Any:
        losses, targets = plain(self, model, inputs)
        return losses / targets.clamp(min=1), targets.clamp(max=1)

    monkeypatch.setattr(SiredonTrainer, "_sum_rows", average)
    rig.forget()
    assert try_cell(rig, ROWS.load("evaluation"), Cell()).failed
    rig.forget()


def test_what_is_no_number_or_has_no_figure_never_passes():
    assert find([("a", float("nan"), 1.0)]).failed
    assert Finding().failed
    assert not Finding(skipped_because="no GPU").passed
    assert list(choose_rows(())) == ["accumulation", "ranks", "boundary_labels", "evaluation"]
