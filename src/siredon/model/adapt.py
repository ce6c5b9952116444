"""What is trained: an adapter, or every weight."""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.adapter_folder import add_frozen_adapters, train_on
from siredon.model.attach import upcast_trained_
from siredon.registry import Shelf

ADAPTERS = Shelf("siredon.model.adapters", "ADAPTER", "adapter")


def attach_adapter_(model: Any, section: AdapterSection, *, seed: int) -> Any:
    """Freezes the model and attaches the adapter that `adapter:` names; without one every weight is trained.

    Args:
        model: A model of transformers.
        section: Which adapter.
        seed: Seed of its random weights, which do not depend on what ran before.

    Raises:
        ModelError: Settings that do not fit the model.
        CheckpointError: A folder of an earlier adapter that holds none, or one that does not fit.
    """
    import transformers

    transformers.set_seed(seed)
    if section.adapter is None:
        return model
    model = add_frozen_adapters(model, section)
    if section.lora_model_dir is None:
        return ADAPTERS.load(section.adapter)(model, section)
    adapted = train_on(model, section)
    if section.peft_autocast_adapter_dtype:
        upcast_trained_(adapted)
    return adapted
