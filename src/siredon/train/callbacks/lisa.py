"""LISA: a few blocks are trained at a time, others after some steps.

Source: Pan et al., "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning",
2024, https://arxiv.org/abs/2403.17919.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.freezing import LisaSection
from siredon.errors import ModelError
from siredon.log import note
from siredon.model.freezing import list_blocks
from siredon.registry import suggest


class Lisa(TrainerCallback):
    """Freezes all blocks but some, which follow from the seed and the step alone.

    Everything outside the blocks, as embeddings, last norm and head, is always trained.  A frozen block has no
    gradients, so the optimizer passes it over; what the optimizer has of it is dropped, which is where LISA saves
    memory, and made anew when its turn comes again.

    Args:
        blocks: The model's blocks.
        section: How many at a time, and for how long.
        seed: The run's seed.
    """

    def __init__(self, blocks: torch.nn.ModuleList, section: LisaSection, seed: int) -> None:
        assert section.lisa_n_layers is not None
        assert section.lisa_step_interval is not None
        self.blocks = blocks
        self.num_active = section.lisa_n_layers
        self.interval = section.lisa_step_interval
        self.seed = seed
        self._period: int | None = None

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Lets other blocks take their turn, at the first step of a run and every `lisa_step_interval`."""
        period = state.global_step // self.interval
        if period == self._period:
            return
        self._period = period
        active = draw_blocks(self.seed, period, len(self.blocks), self.num_active)
        for number, block in enumerate(self.blocks):
            block.requires_grad_(number in active)
            if number not in active:
                for weight in block.parameters():
                    optimizer.state.pop(weight, None)


def draw_blocks(seed: int, period: int, num_blocks: int, num_active: int) -> frozenset[int]:
    """The blocks of a period: all sets are equally likely, and periods independent, as in the paper."""
    return frozenset(random.Random(f"lisa {seed} {period}").sample(range(num_blocks), num_active))


def build_lisa(base: Any, section: LisaSection, seed: int) -> Lisa:
    """LISA over the blocks of a model.

    Raises:
        ModelError: The model has no such list of blocks, or too few of them.
    """
    path = section.lisa_layers_attribute
    there = list_blocks(base)
    if path not in there:
        raise ModelError(
            f"`lisa_layers_attribute: {path}` is no list of layers in {type(base).__name__}",
            f"{suggest(path, there)}Its lists: {', '.join(there) or 'none'}.",
        )
    blocks = there[path]
    wanted = section.lisa_n_layers or 0
    if wanted > len(blocks):
        raise ModelError(
            f"`lisa_n_layers: {wanted}`: `{path}` has {len(blocks)} layers",
            "Lower it: with all of them there is nothing to switch.",
        )
    note(f"LISA: {wanted} of {len(blocks)} layers at a time, others every {section.lisa_step_interval} steps")
    return Lisa(blocks, section, seed)
