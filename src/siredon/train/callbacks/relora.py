"""ReLoRA: when the adapter is merged and begins anew, and what is saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.freezing import ReloraSection
from siredon.log import note, warn
from siredon.model.relora import (
    RELORA,
    begin_anew_,
    build_chance,
    collect_whole,
    find_lora_layers,
    list_base_weights,
    list_lora_weights,
    merge_,
    prune_,
    read_base_,
)
from siredon.train.publish import RESULT, open_draft, publish_result
from siredon.train.saving import CheckpointPart, Content


class Relora(CheckpointPart):
    """Merges after every `period` optimizer steps, but not after the last one.

    A checkpoint of such a step is written afterwards: it has the merged base, the new adapter and the pruned
    state, so that a run goes on from it without asking what was done already.

    Args:
        base: The model of transformers inside PEFT's wrapper.
        section: How.
        period: Optimizer steps between two merges.
        seed: The run's seed.
        ends_with_last: The last checkpoint is the run's result, and not the best one.
    """

    def __init__(
        self, base: Any, section: ReloraSection, *, period: int, seed: int, ends_with_last: bool
    ) -> None:
        self.base = base
        self.section = section
        self.period = period
        self.seed = seed
        self.ends_with_last = ends_with_last
        count = len(find_lora_layers(base))
        note(f"ReLoRA: {count} layers are merged every {period:,} optimizer steps")
        if base.dtype != torch.float32:
            kind = str(base.dtype).removeprefix("torch.")
            warn(
                f"ReLoRA merges into {kind} weights: what is finer than that format is rounded off at each merge"
            )

    def restore_(self, folder: Path) -> None:
        """Puts the base back as a checkpoint has it."""
        read_base_(self.base, folder)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Merges, begins anew, and prunes what the optimizer remembers of the adapter."""
        if state.global_step % self.period or state.global_step >= state.max_steps:
            return
        restart = state.global_step // self.period
        merge_(self.base, in_ram=bool(self.section.relora_cpu_offload))
        begin_anew_(self.base, seed=self.seed, restart=restart)
        prune_(
            optimizer,
            list_lora_weights(self.base),
            self.section.relora_prune_method,
            self.section.relora_prune_ratio,
            chance=build_chance(self.seed, restart),
        )
        note(f"ReLoRA: merged after step {state.global_step:,}")

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """The base under the adapter, which a checkpoint would otherwise lack."""
        return {RELORA: list_base_weights(self.base)} if state.is_world_process_zero else {}

    def before_publishing(self, trainer: Trainer) -> None:
        """With the last step the whole model is written too: of a finished run nobody goes on to do that."""
        if trainer.state.global_step >= trainer.state.max_steps and self.ends_with_last:
            output = Path(str(trainer.args.output_dir))
            draft = open_draft(output / RESULT)
            self.save_whole(draft, trainer.processing_class)
            publish_result(draft)

    def save_whole(self, folder: Path, tokenizer: Any) -> None:
        """Writes the model with its adapter merged: without this base the adapter would mean nothing."""
        self.base.save_pretrained(folder, state_dict=collect_whole(self.base))
        tokenizer.save_pretrained(folder)


def save_trained(trainer: Trainer, folder: Path) -> None:
    """Writes what a run has made: an adapter or a model; of ReLoRA a model."""
    found = [part for part in trainer.callback_handler.callbacks if isinstance(part, Relora)]
    if not found:
        trainer.save_model(str(folder))
    elif trainer.is_world_process_zero():
        found[0].save_whole(folder, trainer.processing_class)
