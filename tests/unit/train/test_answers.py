"""Which part of a row is the prompt and which the answer."""

from __future__ import annotations

import numpy as np
import pytest

from siredon.data.types import IGNORE, Sample
from siredon.train.answers import find_last_answer


@pytest.mark.parametrize(
    ("learned", "wanted"),
    [
        ("..xx", (2, 4)),
        (".xx..xxx.", (5, 8)),  # the last turn, and what stands behind it is not learned
        ("x..x", (3, 4)),
        ("xxx", (0, 3)),
        ("...", (0, 0)),
    ],
)
def test_the_last_learned_stretch_is_the_answer(learned: str, wanted: tuple[int, int]):
    ids = np.arange(len(learned), dtype=np.int32)
    labels = np.array(
        [place if mark == "x" else IGNORE for place, mark in enumerate(learned)], dtype=np.int32
    )
    assert find_last_answer(Sample(ids, labels)) == wanted
