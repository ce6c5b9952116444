"""docs/matrix.md says what every combination of models, adapters and weights does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests import preference_matrix
from tests.conftest import ROOT
from tests.families import FAMILIES
from tests.matrix import Cell, show_page, try_model


@pytest.mark.long
def test_every_combination_does_what_the_page_says(family_folder: Callable[[str], Path], tmp_path: Path):
    outcomes: dict[Cell, str] = {}
    for model in FAMILIES:
        outcomes |= try_model(model, family_folder(model), tmp_path)
    assert show_page(outcomes) == (ROOT / "docs/matrix.md").read_text(), "`make matrix` writes it anew"


@pytest.mark.long
def test_every_method_over_judged_answers_does_what_the_page_says(tmp_path: Path):
    page = preference_matrix.show_page(preference_matrix.try_all(tmp_path))
    assert page == (ROOT / "docs/preference-matrix.md").read_text(), "`make matrix` writes it anew"
