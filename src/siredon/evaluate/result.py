"""What is measured of a model, whatever its rows are: what files and pictures are made of."""

from __future__ import annotations

from typing import Any, Protocol

#: Stands for all data sets of a split together.
ALL = "all"


class Outcome(Protocol):
    """What was measured of a model on a data set."""

    @property
    def model(self) -> str:
        """`base`, `start` or `tuned`."""

    @property
    def split(self) -> str:
        """`training` or `validation`."""

    @property
    def source(self) -> str:
        """The data set; `ALL` for all of the split."""

    @property
    def measures(self) -> dict[str, float]:
        """By name, the loss first where there is one."""

    @property
    def record(self) -> dict[str, Any]:
        """All of it, as JSON values."""
