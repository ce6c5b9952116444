"""What the model writes when a part of a row is given, without a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from siredon.data.collate import PackDataset
from siredon.data.types import Sample
from siredon.train.trainer import SiredonTrainer


@contextmanager
def undisturbed(trainer: SiredonTrainer, seed: int) -> Iterator[Any]:
    """The model, ready to write, with random numbers of its own from `seed`; mode and random state come back."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    device = trainer.args.device
    was_training = model.training
    model.eval()
    fork = (
        torch.random.fork_rng(devices=[])
        if device.type == "cpu"
        else torch.random.fork_rng(devices=[device], device_type=device.type)
    )
    with torch.no_grad(), fork, trainer.compute_loss_context_manager():
        torch.manual_seed(seed)
        yield model
    model.train(was_training)


def continue_ids(model: Any, ids: list[int], options: dict[str, Any]) -> list[int]:
    """The tokens that come after `ids`, up to and with the stop token, which is that of the run.

    Args:
        model: A model of transformers, or PEFT's wrapper around one.
        ids: What is given.
        options: How tokens are chosen, as `generate` takes it.
    """
    given = torch.tensor([ids], device=model.device)
    # A cache is safe here: there is one document, whose positions begin at 0.
    output = model.generate(input_ids=given, attention_mask=torch.ones_like(given), use_cache=True, **options)
    return [int(token) for token in output[0, len(ids) :]]


def first_samples(dataset: Any, count: int) -> list[tuple[int, Sample]]:
    """The first rows of a data set, each with its number, packed or not."""
    assert isinstance(dataset, PackDataset)
    chosen = [int(index) for index in dataset.packs.indices[:count]]
    return [(index, dataset.table[index]) for index in chosen]
