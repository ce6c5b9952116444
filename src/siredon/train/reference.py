"""The model that a policy is compared with: the policy at its start, whatever it starts from, or one that is named.

Where it can be, it is the model in hand in another state, so it takes no second set of frozen weights:

- beside an adapter that starts as nothing, the base is the start: the adapter is switched off (`AdapterOff`);
- an adapter that starts from something, such as that of an earlier run or PiSSA's, and weights that are trained
  themselves, are kept as they were (`StartWeights`), and change places with those in training;
- so does an adapter that is named, where it has the same layers and settings (`OtherWeights`).

What is left is a model of its own beside it (`Beside`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper

from siredon.config.schema import Config
from siredon.errors import TrainingError
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.fitting_adapter import read_fitting
from siredon.model.head import Head
from siredon.model.load import takes_logits_to_keep
from siredon.model.loftq import ROUNDED
from siredon.model.precision import Precision
from siredon.model.second_model import SecondModel, load_second_model
from siredon.train.chunked_loss import ChunkedLoss, find_head_of
from siredon.train.isolation import check_isolation

if TYPE_CHECKING:
    from siredon.train.trainer import SiredonTrainer

#: Tokens with which an adapter is tried out, and the first of their ids.
_NUM_TRIED, _FIRST_ID = 16, 3


class Reference(Protocol):
    """A model that is the reference, or can be in its state."""

    @property
    def model(self) -> Any:
        """The module to call, inside of `standing_in`."""

    def standing_in(self) -> Any:
        """A context in which the model is the reference."""

    def list_tensors(self) -> Iterator[torch.Tensor]:
        """What it holds beside the model in training."""

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

    def list_tensors(self) -> Iterator[torch.Tensor]:
        """Nothing."""
        return iter(())

    def describe(self) -> str:
        """For people."""
        return "the base model, by switching the adapter off"


@dataclass(frozen=True)
class OtherWeights:
    """All that is trained, with other values.

    Args:
        model: The model that is trained.
        weights: Its trained weights, by name -> the other values, on the same device and in the same format.
        name: What they are, for people.
    """

    model: torch.nn.Module
    weights: dict[str, torch.Tensor]
    name: str

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the weights have the other values.  Nothing is copied: tensors change places."""
        # By name: a run that goes on may put other parameters into their places
        found = [self.model.get_parameter(name) for name in self.weights]
        trained = [weight.data for weight in found]
        for weight, other in zip(found, self.weights.values(), strict=True):
            weight.data = other
        try:
            yield
        finally:
            for weight, data in zip(found, trained, strict=True):
                weight.data = data

    def mix_(self, share: float) -> None:
        """Moves the other values towards those in training: `share` of these and the rest of those, in fp32.

        To be called outside of `standing_in`.
        """
        with torch.no_grad():
            for name, other in self.weights.items():
                trained = self.model.get_parameter(name)
                other.copy_(share * trained.float() + (1 - share) * other.float())

    def list_tensors(self) -> Iterator[torch.Tensor]:
        """The other values."""
        return iter(self.weights.values())

    def describe(self) -> str:
        """For people."""
        count = sum(weight.numel() for weight in self.weights.values())
        return f"{self.name}: {count:,} parameters, which change places with those in training"


@dataclass(frozen=True)
class StartWeights(OtherWeights):
    """All that is trained, as it was when this was made.

    Args:
        model: The model that is trained.
    """

    weights: dict[str, torch.Tensor] = field(init=False)
    name: str = field(init=False, default="the model as it starts")

    def __post_init__(self) -> None:
        kept = {
            name: weight.detach().clone()
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }
        object.__setattr__(self, "weights", kept)

    def describe(self) -> str:
        """For people."""
        count = sum(weight.numel() for weight in self.weights.values())
        return f"{self.name}: a copy of its {count:,} trained parameters"


@dataclass(frozen=True)
class Beside:
    """A model of its own, which nothing changes.

    Args:
        trainer: Runs it.
        second: The model, on its device.
        chunked: Log-probabilities from its hidden states; None for those of its logits.
    """

    trainer: SiredonTrainer
    second: SecondModel
    chunked: ChunkedLoss | None

    @property
    def model(self) -> Any:
        """The module to call."""
        return self.second.model

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, the trainer runs models by the head of this one."""
        trainer, own = self.trainer, (self.trainer.chunked, self.trainer.selects_logits)
        trainer.chunked, trainer.selects_logits = self.chunked, takes_logits_to_keep(self.second.base)
        try:
            yield
        finally:
            trainer.chunked, trainer.selects_logits = own

    def list_tensors(self) -> Iterator[torch.Tensor]:
        """Its weights and buffers."""
        yield from self.model.parameters()
        yield from self.model.buffers()

    def describe(self) -> str:
        """For people."""
        count = sum(weight.numel() for weight in self.model.parameters())
        return f"{self.second.name}: a second model of {count:,} parameters"


def load_reference(
    trainer: SiredonTrainer, config: Config, precision: Precision, hardware: Hardware
) -> Reference:
    """The model that the file names: an adapter on the model in hand where it fits there, else a second model.

    Args:
        trainer: Holds the policy, on its device.
        config: The whole config.
        precision: Number formats.
        hardware: What it runs on.

    Raises:
        ModelError: The model cannot be read, has another vocabulary, or lets both answers of a pair see each other.
        CheckpointError: A folder without an adapter, or with one that does not fit.
    """
    found: Reference | str = _fit_adapter(trainer, config)
    if isinstance(found, str):
        if found:
            note(f"reference: the adapter needs a second base, as {found}")
        second = load_second_model(config, trainer.processing_class, precision, hardware, trainer.args.device)
        found = Beside(trainer, second, _find_chunks(trainer, second))
        if config.shares_sequences:
            check_isolation(trainer, config.attention.attn_implementation, second.model)
    note(f"reference: {found.describe()}")
    return found


def _fit_adapter(trainer: SiredonTrainer, config: Config) -> OtherWeights | str:
    """The adapter that is named, in the place of the one in training; or why not, empty where none is asked for."""
    section, reference = config.adapter, config.reference
    if reference.reference_model is not None or reference.reference_adapter is None:
        return ""
    model: Any = trainer.model
    if not isinstance(model, PeftModel):
        return ""
    continued = section.lora_model_dir
    rounded = section.rounds_base or (continued and (Path(continued).expanduser() / ROUNDED).is_file())
    if section.moves_base or rounded or section.lora_frozen_dirs:
        return "that of the policy was changed at its start"
    folder = Path(reference.reference_adapter).expanduser()
    found = read_fitting(model, folder)
    return found if isinstance(found, str) else OtherWeights(model, found, f"the adapter in {folder}")


def _find_chunks(trainer: SiredonTrainer, second: SecondModel) -> ChunkedLoss | None:
    """How it is scored: from hidden states where the policy is, and its head allows it."""
    if trainer.chunked is None:
        return None
    head = find_head_of(trainer, second.model, second.base)
    if isinstance(head, Head):
        return ChunkedLoss(head, trainer.chunked.num_chunks)
    note(f"reference: its log-probabilities come from whole logits, because {head}")
    return None


def copy_start(trainer: SiredonTrainer) -> StartWeights:
    """The policy as it is now, for a reference that will follow it.

    Raises:
        TrainingError: What is trained is held in whole numbers, which cannot be mixed.
    """
    model: Any = trainer.model
    reference = StartWeights(model)
    if any(not weight.is_floating_point() for weight in reference.weights.values()):
        raise TrainingError(
            "`sync_ref_model: true`: some trained weights are held in whole numbers, and cannot be mixed",
            "Use another `optimizer`, or set `sync_ref_model: false`.",
        )
    note(f"reference: {reference.describe()}")
    return reference


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
