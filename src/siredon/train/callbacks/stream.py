"""stream.json in every checkpoint: where the stream of training rows goes on."""

from __future__ import annotations

import json
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from siredon.data.stream import Stream
from siredon.log import note, warn
from siredon.train.saving import CheckpointPart, Content


class StreamKeeper(CheckpointPart):
    """Saves the place of a stream, by what was trained on and not by what was read ahead.

    Args:
        stream: The training rows.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Sets the epoch, which is the part of the run that is done: `Trainer` counts it from where it started."""
        state.epoch = state.global_step / state.max_steps
        self.stream.forget(_count_packs(args, state))

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """The place."""
        if not state.is_world_process_zero:
            return {}
        return {"stream.json": json.dumps(self.stream.state_at(_count_packs(args, state)))}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says what became of the rows."""
        if not state.is_world_process_zero:
            return
        for counts in self.stream.counts:
            for line in counts.lines():
                note(line)
            for line in counts.warnings():
                warn(line)
        if self.stream.has_ended and state.global_step < state.max_steps:
            warn(f"the stream ended after {state.global_step:,} of {state.max_steps:,} steps")


def _count_packs(args: TrainingArguments, state: TrainerState) -> int:
    """Packs that all ranks have trained on since the stream began."""
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return int(state.global_step * per_step)
