"""The head of a model that judges: a linear layer `score` that gives numbers for each token, in place of words.

transformers' classes for sequences and for tokens put it behind the body of a language model.  The former then picks
one token a row, which is not ours: rows hold several documents.  So scores are taken where the head gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from siredon.errors import ModelError

#: The name of the head in transformers' models.
NAME = "score"
#: End of the name of a class -> what PEFT calls its task.
_TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}


def name_task(model: Any) -> str:
    """PEFT's name for what a model does: with `SEQ_CLS` and `TOKEN_CLS` it trains the head too, in full."""
    name = type(model).__name__
    return next((task for end, task in _TASKS.items() if name.endswith(end)), "CAUSAL_LM")


def has_score_head(model: Any) -> bool:
    """Whether a model of transformers judges."""
    return name_task(model) != "CAUSAL_LM"


def find_score_head(base: Any) -> torch.nn.Module:
    """The head of a model that judges; PEFT's wrapper around it, where it is trained beside an adapter.

    Raises:
        ModelError: The model has none of that name.
    """
    head: torch.nn.Module | None = dict(base.named_children()).get(NAME)
    if head is None:
        raise ModelError(
            f"base_model: {type(base).__name__} gives no score for each token: it has no layer `{NAME}`",
            "Use a language model that reads from left to right.",
        )
    return head


def start_score_head_(model: Any, missing: Collection[str], spread: float, seed: int) -> bool:
    """Draws a head that the files of a model do not have; true if there was one to draw.

    It depends on the seed alone, whatever was drawn before and whatever format the weights have.

    Args:
        model: The model as it was read.
        missing: Names of weights that were in no file.
        spread: Standard deviation of the weights; biases begin as 0.
        seed: The seed.
    """
    head = dict(model.named_children()).get(NAME)
    new = [] if head is None else [name for name, _ in head.named_parameters() if f"{NAME}.{name}" in missing]
    for name in new:
        assert head is not None
        weight = head.get_parameter(name)
        drawn = torch.zeros(weight.shape, device="cpu")
        if name == "weight":
            drawn.normal_(0.0, spread, generator=torch.Generator("cpu").manual_seed(seed))
        if not weight.is_meta:
            weight.data.copy_(drawn)
    return bool(new)


@contextmanager
def catch_scores(head: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Keeps what a head gives in the passes inside, [B, T, K] each."""
    caught: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, scores: Tensor) -> None:
        caught.append(scores)

    handle = head.register_forward_hook(keep)
    try:
        yield caught
    finally:
        handle.remove()
