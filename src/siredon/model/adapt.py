"""What is trained: an adapter, or every weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import CheckpointError
from siredon.registry import Shelf

ADAPTERS = Shelf("siredon.model.adapters", "ADAPTER", "adapter")


def attach_adapter_(model: Any, section: AdapterSection, *, seed: int) -> Any:
    """Freezes the model and attaches the adapter that `adapter:` names; without one every weight is trained.

    Args:
        model: A model of transformers.
        section: Which adapter.
        seed: Seed of its random weights, which do not depend on what ran before.
    """
    import transformers

    transformers.set_seed(seed)
    if section.adapter is None:
        return model
    return ADAPTERS.load(section.adapter)(model, section)


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter in `folder`.

    Raises:
        CheckpointError: The folder holds no whole adapter.
    """
    from peft import PeftModel

    check_adapter(folder)
    return PeftModel.from_pretrained(model, str(folder))


def check_adapter(folder: Path) -> None:
    """Refuses a folder that holds no whole adapter.

    Raises:
        CheckpointError: What is missing, and how it comes about.
    """
    if not (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds a whole model and no adapter",
            "Use that model as it is: a run with `relora: true`, or without `adapter`, writes one, merged already.",
        )
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} holds no adapter: {name} is missing",
                "Train first (`siredon train CONFIG`), and use the same `output_dir`.",
            )
