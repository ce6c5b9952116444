"""What a checkpoint holds, against the model that it is one of: every tensor once, none missing, none besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.errors import CheckpointError, ModelError
from siredon.export.dcp import Checkpoint, show_shape
from siredon.export.dcp_names import Names, read_names, show_names
from siredon.export.merge_plan import find_shared, revert
from siredon.model.adapt import attach_adapter_
from siredon.model.adapter_folder import SETTINGS
from siredon.model.attach import without_needless_warnings

_ANOTHER_MODEL = (
    "Name the model that was trained, with its `model_config`; a run that added tokens is known by its YAML file, or "
    "by its tokenizer (`tokenizer_config`)."
)
#: Starts of LoRA after which the base is another one.
_MOVING = ("pissa", "olora", "corda", "lora_ga", "loftq", "mica")


@dataclass(frozen=True)
class Plan:
    """What is written of a checkpoint.

    Args:
        model: The model without weights; of an adapter, that with the adapter on it.
        is_adapter: Whether the adapter alone is written.
        names: What was found.
        place: Name in the model, or of the adapter on disk -> name in the checkpoint.
        shared: Name of a weight that has several -> the first of these.
        left_out: Names of frozen weights below an adapter.
    """

    model: Any
    is_adapter: bool
    names: Names
    place: Mapping[str, str]
    shared: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def name_on_disk(self, name: str, tensor: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Name in a file -> tensor: some families have their experts stacked in memory, and not on disk."""
        return {name: tensor} if self.is_adapter else revert(self.model, {name: tensor})

    @property
    def names_on_disk(self) -> list[str]:
        """Every name that may be written."""
        return (
            [*self.place] if self.is_adapter else [*self.place, *revert(self.model, self.model.state_dict())]
        )


def plan_model(model: Any, checkpoint: Checkpoint) -> Plan:
    """The checkpoint of a model that was trained in full.

    Args:
        model: The model without its weights, as `build_skeleton` gives it.
        checkpoint: Of it, or of a larger state with it.

    Raises:
        CheckpointError: A weight is missing, has another shape, or is not the model's.
        ModelError: A family whose weights are put together when they are written.
    """
    state = model.state_dict()
    what = f"{checkpoint.folder}, for {type(model).__name__}"
    names = read_names(checkpoint.tensors, state, what)
    shared = find_shared(model)
    there = {shared.get(name, name) for name in names.place}
    missing = [name for name in state if shared.get(name, name) not in there]
    _check_names(what, missing, [name for name in names.place if name not in state])
    _check_shapes(checkpoint, {name: tuple(state[name].shape) for name in names.place}, names.place)
    alone = [key for name, weight in state.items() for key in revert(model, {name: weight})]
    if sorted(alone) != sorted(revert(model, state)):
        raise ModelError(
            f"{type(model).__name__} puts several weights together as it is saved, which is not built here",
            "Load the checkpoint in the run's own program, and save it with `save_pretrained`.",
        )
    return Plan(model, False, names, names.place, shared)


def plan_adapter(model: Any, config: Config, settings: Path | None, checkpoint: Checkpoint) -> Plan:
    """The checkpoint of a run that trained an adapter: of all of its weights, or of the adapter's own.

    Args:
        model: The base without its weights.
        config: Which adapter, where no file says so.
        settings: The folder with `adapter_config.json`, if there is one.
        checkpoint: Of the adapter.

    Raises:
        CheckpointError: A weight of the adapter is missing, has another shape, or is not its own.
        ModelError: An adapter that is not one of the base as it is, or makes its tensors as it is saved.
    """
    from peft import get_peft_model_state_dict

    if config.relora.relora:
        raise ModelError(
            "`relora: true` trains the base through its adapter, so the adapter alone is not the result",
            "Load the checkpoint in the run's own program, merge it there, and save it with `save_pretrained`.",
        )
    adapted = _attach(model, config.adapter, settings)
    whole = {name: tuple(weight.shape) for name, weight in adapted.state_dict().items()}
    wanted = {name: tuple(weight.shape) for name, weight in get_peft_model_state_dict(adapted).items()}
    what = f"{checkpoint.folder}, for this adapter of {type(model).__name__}"
    names = read_names(checkpoint.tensors, {*whole, *wanted}, what)
    place = names.place
    if not set(wanted) <= set(place):
        place = _find_saved(adapted, checkpoint, names)
    used = set(place.values())
    rest = [name for name, key in names.place.items() if key not in used]
    foreign = [name for name in rest if not _is_of(name, whole)]
    _check_names(what, [name for name in wanted if name not in place], foreign)
    place = {name: place[name] for name in wanted}
    _check_shapes(checkpoint, wanted, place)
    return Plan(adapted, True, names, place, left_out=tuple(rest))


def find_settings(*folders: Path) -> Path | None:
    """The first folder with the settings of an adapter."""
    return next((folder for folder in folders if (folder / SETTINGS).is_file()), None)


def _attach(model: Any, section: AdapterSection, settings: Path | None) -> Any:
    """The model with the adapter, neither of which has weights."""
    if settings is None:
        _check_start(section.peft_init_lora_weights)
        if section.rounds_base:
            _check_start("loftq")
        plain = {"lora_model_dir": None, "lora_frozen_dirs": (), "peft_init_lora_weights": None}
        with torch.device("meta"):
            return attach_adapter_(model, section.model_copy(update=plain), seed=0)
    from peft import PeftConfig, get_peft_model

    try:
        found = PeftConfig.from_pretrained(str(settings))
        start = vars(found).get("init_lora_weights", True)
        _check_start(start)
        if start is not True and "init_lora_weights" in vars(found):
            found.init_lora_weights = True
        with torch.device("meta"), without_needless_warnings():
            return get_peft_model(model, found, autocast_adapter_dtype=False)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"the adapter that {settings / SETTINGS} describes does not fit this model: {reason}",
            "Name the `base_model` that it was trained on.",
        ) from error


def _check_start(start: Any) -> None:
    if isinstance(start, str) and start.partition("_niter_")[0] in _MOVING:
        raise ModelError(
            f"LoRA began by `{start}`, which takes from the base what it puts into the adapter: by itself it is no "
            "adapter of the base",
            "Load the checkpoint in the run's own program, and save the adapter there.",
        )


def _find_saved(adapted: Any, checkpoint: Checkpoint, names: Names) -> dict[str, str]:
    """Name on disk -> name in the checkpoint, where that has the names of PyTorch's `state_dict`.

    PEFT is given empty tensors under these names, and is seen to pass each on under its own.
    """
    from peft import get_peft_model_state_dict

    empty = {
        name: torch.empty(checkpoint.tensors[key].shape, device="meta") for name, key in names.place.items()
    }
    keys = {id(tensor): names.place[name] for name, tensor in empty.items()}
    try:
        saved = get_peft_model_state_dict(adapted, state_dict=empty)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.folder}: PEFT does not find the adapter's weights: {error}", _ANOTHER_MODEL
        ) from error
    made = [name for name, tensor in saved.items() if id(tensor) not in keys]
    if made:
        raise ModelError(
            f"this kind of adapter makes its tensors as it is saved ({made[0]})",
            "Load the checkpoint in the run's own program, and save the adapter there.",
        )
    return {name: keys[id(tensor)] for name, tensor in saved.items()}


def _is_of(name: str, whole: Collection[str]) -> bool:
    """Whether a name is one of the model's, or tells more of one, as the scales of 4-bit weights do."""
    return name in whole or f"{name.partition('.weight.')[0]}.weight" in whole


def _check_names(what: str, missing: list[str], foreign: list[str]) -> None:
    if foreign and any(".lora_" in name for name in foreign):
        raise CheckpointError(
            f"{what}: it holds an adapter, too: {show_names(foreign)}",
            "Say which one: `--adapter lora` with its settings, the YAML file of the run, or a folder with "
            f"{SETTINGS}.",
        )
    if foreign:
        raise CheckpointError(
            f"{what}: weights that the model does not have: {show_names(foreign)}", _ANOTHER_MODEL
        )
    if missing:
        raise CheckpointError(f"{what}: missing: {show_names(missing)}", _ANOTHER_MODEL)


def _check_shapes(
    checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], place: Mapping[str, str]
) -> None:
    for name, key in place.items():
        found = checkpoint.tensors[key].shape
        if found != wanted[name]:
            raise CheckpointError(
                f"{checkpoint.folder}: {name} is {show_shape(found)}, and {show_shape(wanted[name])} in the model",
                _ANOTHER_MODEL,
            )
