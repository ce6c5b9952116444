"""How a model is asked, beside an adapter's weights in every checkpoint: a whole model has it there by itself."""

from __future__ import annotations

from typing import Any

from transformers import TrainerState, TrainingArguments

from siredon.train.saving import CheckpointPart, Content


class GenerationKeeper(CheckpointPart):
    """Writes `generation_config.json`, which an adapter is merged with: it names the tokens that end an answer.

    Args:
        base: The model of transformers inside.
    """

    def __init__(self, base: Any) -> None:
        self.base = base

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """The settings."""
        if not state.is_world_process_zero:
            return {}
        return {"generation_config.json": self.base.generation_config.to_json_string()}
