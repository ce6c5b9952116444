"""The source as the design tests see it."""

from __future__ import annotations

from pathlib import Path

import pytest

import siredon


@pytest.fixture(scope="session")
def source() -> Path:
    """The folder of the package."""
    return Path(siredon.__file__).parent
