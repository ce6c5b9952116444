"""The model that a policy is compared with: the policy at its start, whatever it starts from.

It is the model in hand in another state, so it takes no second set of frozen weights:

- beside an adapter that starts as nothing, the base is the start: the adapter is switched off (`AdapterOff`);
- an adapter that starts from something, such as that of an earlier run or PiSSA's, and weights that are trained
  themselves, are kept as they were (`StartWeights`), and change places with those in training.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper

from siredon.log import note

if TYPE_CHECKING:
    from siredon.train.trainer import SiredonTrainer

#: Tokens with which an adapter is tried out, and the first of their ids.
_NUM_TRIED, _FIRST_ID = 16, 3


class Reference(Protocol):
    """A model in the state of the reference."""

    def standing_in(self) -> Any:
        """A context in which the model is the reference."""

    def describe(self) -> str:
        """For people."""


@dataclass(frozen=True)
class AdapterOff:
    """The base, without its adapter.

    Args:
        model: The base with its adapter, by PEFT.
    """

    model: PeftModel

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the adapter is off."""
        with self.model.disable_adapter():
            yield

    def describe(self) -> str:
        """For people."""
        return "the base model, by switching the adapter off"


@dataclass(frozen=True)
class StartWeights:
    """All that is trained, as it was when this was made.

    Args:
        model: The model that is trained.
    """

    model: torch.nn.Module
    weights: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        kept = {
            name: weight.detach().clone()
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }
        object.__setattr__(self, "weights", kept)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the weights are those of the start.  Nothing is copied: tensors change places."""
        # By name: a run that goes on may put other parameters into their places
        found = [self.model.get_parameter(name) for name in self.weights]
        trained = [weight.data for weight in found]
        for weight, start in zip(found, self.weights.values(), strict=True):
            weight.data = start
        try:
            yield
        finally:
            for weight, data in zip(found, trained, strict=True):
                weight.data = data

    def describe(self) -> str:
        """For people."""
        count = sum(weight.numel() for weight in self.weights.values())
        return f"the model as it starts: a copy of its {count:,} trained parameters"


def choose_reference(trainer: SiredonTrainer) -> Reference:
    """The policy as it is now, which must be before its first step; a checkpoint may be loaded into it afterwards.

    Args:
        trainer: Holds the model, on its device.
    """
    model: Any = trainer.model
    is_off = _starts_as_base(trainer) and not _trains_head(trainer)
    reference: Reference = AdapterOff(model) if is_off else StartWeights(model)
    note(f"reference: {reference.describe()}")
    return reference


def _starts_as_base(trainer: SiredonTrainer) -> bool:
    """Whether a switched-off adapter is the model as it starts, and will be: by trial, and as nothing else is trained.

    Settings would not say it: adapters have many ways to start, and layers and biases may be trained beside them.
    """
    model: Any = trainer.model
    if not isinstance(model, PeftModel):
        return False
    was_training = model.training
    model.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad(), trainer.compute_loss_context_manager():
            # PEFT tells of biases that stay: they are found below
            warnings.filterwarnings(
                "ignore", message="Careful, disabling adapter layers", category=UserWarning
            )
            with_adapter = _run(trainer)
            with model.disable_adapter():
                without = _run(trainer)
                # PEFT freezes what it switches off: the rest is trained too
                rest = any(weight.requires_grad for weight in model.parameters())
    finally:
        model.train(was_training)
    return not rest and torch.equal(with_adapter, without)


def _trains_head(trainer: SiredonTrainer) -> bool:
    """Whether the loss is computed with a head that is trained beside an adapter, and is passed by once that is off."""
    if trainer.chunked is None:
        return False
    model: Any = trainer.model
    copies = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    return any(
        layer is trainer.chunked.head.layer for copy in copies for layer in copy.modules_to_save.values()
    )


def _run(trainer: SiredonTrainer) -> torch.Tensor:
    ids = torch.arange(_FIRST_ID, _FIRST_ID + _NUM_TRIED, device=trainer.args.device)[None]
    batch: Any = {"input_ids": ids, "position_ids": ids - _FIRST_ID}
    return trainer.run_model(trainer.model, batch)
