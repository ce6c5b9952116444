from __future__ import annotations

from typing import Any

import pytest

from siredon.config.duration import read_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86_400),
        ("11h30m", 41_400),
        ("1d 2h 3m 4s", 93_784),
        ("1:30:00", 5400),
        ("1-12:00:00", 129_600),
        ("90", 90),
        ("0.5", 0.5),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_a_time_is_read_in_every_form(text: Any, seconds: float):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1:30", "h", "30m2h", "ten", "1:75:00", "-5", True, None, "1h30"])
def test_what_is_no_time_is_refused_with_the_forms(text: Any):
    with pytest.raises(ValueError, match="expected a time"):
        read_duration(text)
