"""Every row of the proof table passes in its quick cells; `test_mutations.py` sees each of them fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from siredon import pipeline, release
from siredon.selftest.rig import Rig
from siredon.selftest.row import Finding, build_grid, find
from siredon.selftest.table import ROWS, choose_rows, try_cell


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(verbs=(pipeline.train, release.merge_unchecked)) as built:
        built.start_ranks(2)  # They import while rows of one rank run
        yield built


@pytest.mark.parametrize("name", ROWS.names())
def test_a_row_passes_in_its_quick_cells(rig: Rig, name: str):
    row = ROWS.load(name)
    cells = row.cells(build_grid(quick=True))
    assert cells
    for cell in cells:
        finding = try_cell(rig, row, cell)
        assert not finding.skipped_because
        assert finding.passed, (cell.describe(), finding.worst, finding.error)


def test_what_is_no_number_or_has_no_figure_never_passes():
    assert find([("a", float("nan"), 1.0)]).failed
    assert Finding().failed
    assert not Finding(skipped_because="no GPU").passed


def test_every_row_has_a_number_of_its_own():
    numbers = [row.number for row in choose_rows(()).values()]
    assert numbers == sorted(set(numbers))
