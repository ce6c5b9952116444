"""The start of an adapter that needs the trainer: data to look at, or values to keep."""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.data.types import IGNORE
from siredon.errors import DataError
from siredon.log import note
from siredon.model.adapter_folder import read_start
from siredon.model.attach import upcast_trained_
from siredon.model.loftq import ROUNDED
from siredon.train.callbacks.start import StartKeeper
from siredon.train.trainer import SiredonTrainer

#: Micro-batches that EVA looks at, over and over, until its directions stay the same.
_BATCHES = 64


def start_adapter_(trainer: SiredonTrainer, section: AdapterSection) -> None:
    """Prepares the adapter of a trainer that has not trained: EVA's vectors, or what to keep of PiSSA's start.

    Raises:
        DataError: EVA finds too few tokens in a batch.
    """
    if section.adapter is None:
        return
    continued = section.lora_model_dir
    if section.rounds_base or (continued and (Path(continued).expanduser() / ROUNDED).is_file()):
        trainer.add_callback(StartKeeper({}, is_rounded=True))
    if section.start == "eva":
        start_by_data_(trainer)
        if section.peft_autocast_adapter_dtype:
            upcast_trained_(trainer.model)
    if section.moves_base:
        trainer.add_callback(StartKeeper(read_start(trainer.model)))


def start_by_data_(trainer: SiredonTrainer) -> None:
    """Starts LoRA's A with the main directions of what its layers are given, and deals ranks by how much they explain.

    The batches are the first ones of the run; no random state is changed, so the run sees them again.  Several ranks
    look at the batches of all, and find the same.

    Source: Paischer et al., "Explained Variance Adaptation", 2024, https://arxiv.org/abs/2410.07170.

    Raises:
        DataError: No batch has as many tokens as there are directions to find.
    """
    from peft import initialize_lora_eva_weights
    from peft.tuners.lora import LoraLayer

    model: Any = trainer.model

    def run(inner: torch.nn.Module, batch: Any) -> None:
        with trainer.compute_loss_context_manager():
            trainer.run_model(inner, batch)

    with torch.random.fork_rng(), warnings.catch_warnings():
        # It tells that the batches of all ranks are gathered, which is what is wanted.
        warnings.filterwarnings("ignore", message="torch.distributed is initialized", category=UserWarning)
        initialize_lora_eva_weights(model, _choose_batches(trainer), forward_fn=run, show_progress_bar=False)
    ranks = [module.r["default"] for module in model.modules() if isinstance(module, LoraLayer)]
    note(f"EVA: ranks of {min(ranks)} to {max(ranks)} on {len(ranks)} layers")


def _choose_batches(trainer: SiredonTrainer) -> list[Any]:
    """The first micro-batches with enough tokens: PEFT would wait for ever for one that has them."""
    model: Any = trainer.model
    settings = model.peft_config["default"]
    largest = max([settings.r, *settings.rank_pattern.values()])
    needed = round(largest * settings.eva_config.rho)
    found, most = [], 0
    for batch in islice(trainer.get_train_dataloader(), _BATCHES):
        labels = batch["labels"]
        counted = labels != IGNORE if settings.eva_config.use_label_mask else torch.ones_like(labels)
        number = counted.sum()
        if trainer.args.world_size > 1:
            number = trainer.accelerator.reduce(number, reduction="sum")
        most = max(most, int(number))
        if int(number) >= needed:
            found.append(batch)
    if not found:
        raise DataError(
            f"`peft_init_lora_weights: eva` looks for {needed} directions, and no micro-batch has more than "
            f"{most} tokens to look at",
            "Raise `micro_batch_size` or `sequence_len`, lower `lora_r`, or write "
            "`peft: {eva_config: {use_label_mask: false}}`.",
        )
    return found
