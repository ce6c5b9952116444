"""What a row of the proof table is: a claim, the cells in which it is tried, and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siredon.selftest.rig import Rig

#: How far fp32 may be from the truth in fp64, relative to the largest gradient; and fp64 from itself.
FP32, FP64 = 1e-5, 1e-6


@dataclass(frozen=True)
class Cell:
    """How a claim is tried.

    Args:
        attention: Value of `attn_implementation`.
        packed: Several documents share a sequence.
        accumulation: Micro-batches of an optimizer step, on each rank.
        num_ranks: Processes.
        case: What of the row's own it is about, such as a chat template; empty for rows of training steps.
    """

    attention: str = "sdpa"
    packed: bool = False
    accumulation: int = 1
    num_ranks: int = 1
    case: str = ""

    def describe(self) -> str:
        """For people."""
        how = "packed" if self.packed else "unpacked"
        parts = [self.case, *([how] if self.packed else [])] if self.case else [self.attention, how]
        parts += [f"accumulation {self.accumulation}"] if self.accumulation > 1 else []
        parts += [f"{self.num_ranks} ranks"] if self.num_ranks > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Grid:
    """The values that the cells of a table take.

    Args:
        attentions: Values of `attn_implementation`.
        packings: Packed or not.
        accumulations: Micro-batches of a step.
        ranks: Numbers of processes.
        is_quick: Few cells only.
    """

    attentions: tuple[str, ...]
    packings: tuple[bool, ...]
    accumulations: tuple[int, ...]
    ranks: tuple[int, ...]
    is_quick: bool

    def cells(
        self,
        *,
        packings: tuple[bool, ...] | None = None,
        accumulations: tuple[int, ...] | None = None,
        ranks: tuple[int, ...] | None = None,
    ) -> tuple[Cell, ...]:
        """Every combination, or in a quick table so few that each value occurs.

        An argument takes the place of the grid's own values.
        """
        axes = (
            self.attentions,
            self.packings if packings is None else packings,
            self.accumulations if accumulations is None else accumulations,
            self.ranks if ranks is None else ranks,
        )
        if not self.is_quick:
            return tuple(Cell(*values) for values in product(*axes))
        length = max(map(len, axes))
        return tuple(
            Cell(*values) for values in zip(*(islice(cycle(axis), length) for axis in axes), strict=True)
        )


@dataclass(frozen=True)
class Measure:
    """One figure, and how large it may be.

    Args:
        what: What was measured.
        figure: A distance: 0 is perfect.
        tolerance: The largest that passes.
    """

    what: str
    figure: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the figure is within the tolerance; no number never is."""
        return self.figure <= self.tolerance

    @property
    def badness(self) -> float:
        """How much of the tolerance is used up; infinite where there is none and the figure is not 0."""
        if math.isnan(self.figure):
            return math.inf
        if self.tolerance == 0:
            return 0.0 if self.figure == 0 else math.inf
        return self.figure / self.tolerance


@dataclass(frozen=True)
class Finding:
    """What was found in a cell.

    Args:
        measures: All figures; none if it could not run.
        skipped_because: Why it could not run; empty if it did.
        error: What stopped it half-way; empty if nothing did.
    """

    measures: tuple[Measure, ...] = ()
    skipped_because: str = ""
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran, and every figure is within its tolerance."""
        return bool(self.measures) and not self.error and all(measure.passed for measure in self.measures)

    @property
    def failed(self) -> bool:
        """Whether it ran, or should have, and did not pass: a cell without a figure and without a reason fails."""
        return not self.passed and not self.skipped_because

    @property
    def worst(self) -> Measure | None:
        """The figure that uses up most of its tolerance, one that fails first of all."""
        return max(
            self.measures,
            key=lambda measure: (not measure.passed, measure.badness, measure.figure),
            default=None,
        )


def find(measures: Iterable[tuple[str, float, float]]) -> Finding:
    """A finding of (what was measured, figure, tolerance)."""
    return Finding(tuple(Measure(*measure) for measure in measures))


@dataclass(frozen=True)
class Row:
    """A part of the shelf `rows/`.

    Args:
        number: Its number in the table.
        proves: The claim, in one sentence.
        cells: The grid of the table -> the cells in which the claim is tried.
        run: Tries it in one cell.
    """

    number: int
    proves: str
    cells: Callable[[Grid], tuple[Cell, ...]]
    run: Callable[[Rig, Cell], Finding]


def build_grid(*, quick: bool) -> Grid:
    """The cells of a quick table, or of the whole one.

    Flex attention has no backward pass on a CPU: there its cells stand in the whole table as such that could not run.
    """
    if quick:
        return Grid(("sdpa",), (True, False), (1, 4), (1, 2), True)
    return Grid(("eager", "sdpa", "flex_attention"), (False, True), (1, 2, 4), (1, 2), False)
