"""A reference that follows the policy, and where it is, in every checkpoint.

Source: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment", 2024,
https://arxiv.org/abs/2404.09656: the update with `ref_model_mixup_alpha` below 1 is its soft one, with 1 its hard one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from siredon.errors import CheckpointError
from siredon.log import note
from siredon.train.checkpoint import REFERENCE
from siredon.train.reference import OtherWeights
from siredon.train.saving import CheckpointPart, Content


class ReferenceSync(CheckpointPart):
    """Mixes the policy into its reference after every `period` optimizer steps.

    The checkpoint and the validation of such a step come afterwards: they have the reference as the next step has it.

    Args:
        reference: The values of the reference.
        share: Part of the policy that it takes on, above 0 and up to 1.
        period: Optimizer steps.
    """

    def __init__(self, reference: OtherWeights, share: float, period: int) -> None:
        self.reference = reference
        self.share = share
        self.period = period
        note(f"reference: every {period:,} optimizer steps {share:g} of the policy is mixed in")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mixes, if it is time."""
        if state.global_step % self.period == 0:
            self.reference.mix_(self.share)

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """The reference as it is, where a run may go on from it."""
        if args.save_only_model or not state.is_world_process_zero:
            return {}
        return {REFERENCE: self.reference.weights}


def read_reference_(reference: OtherWeights, folder: Path) -> None:
    """Puts the reference where a checkpoint has it.

    Raises:
        CheckpointError: It does not have it, or has another.
    """
    from safetensors.torch import load_file

    path = folder / REFERENCE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint of a run with `sync_ref_model: true`: {REFERENCE} is missing",
            "Name a checkpoint of such a run, or start anew.",
        )
    found = load_file(path)
    shapes = {name: value.shape for name, value in reference.weights.items()}
    if {name: value.shape for name, value in found.items()} != shapes:
        raise CheckpointError(
            f"{path} is of a policy with other weights than those in training", "Set it back, or start anew."
        )
    with torch.no_grad():
        for name, value in reference.weights.items():
            value.copy_(found[name])
