"""What every search is: something that is asked for trials, and told how they went."""

from __future__ import annotations

from collections.abc import Sequence

from siredon.sweep.trial import Trial


class Search:
    """Trials that are all known before the first run, in their order.

    Args:
        known: The trials.
    """

    def __init__(self, known: Sequence[Trial]) -> None:
        self.known = tuple(known)
        self._num_asked = 0

    @property
    def num_trials(self) -> int:
        """How many trials there are to ask for."""
        return len(self.known)

    def ask(self) -> Trial | None:
        """The next trial; None after the last one."""
        if self._num_asked == self.num_trials:
            return None
        self._num_asked += 1
        return self._choose(self._num_asked)

    def tell(self, loss: float | None) -> None:
        """How the trial asked for last went: its loss, infinite if it diverged, None if there is none."""

    def _choose(self, number: int) -> Trial:
        return self.known[number - 1]
