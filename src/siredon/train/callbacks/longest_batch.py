"""The longest batch is tried before the first step: if memory runs out for its length, then in the first minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.log import note


class LongestBatch(TrainerCallback):
    """Tries it, fresh or resumed, and says in a line what it takes.

    Args:
        probe: Tries it; gives the line, empty for none.
    """

    def __init__(self, probe: Callable[[], str]) -> None:
        self.probe = probe

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tries it: weights and optimizer are where they will be.

        Raises:
            TrainingError: It does not fit.
        """
        if line := self.probe():
            note(line)
