"""An adapter merged into its base: a normal model folder that plain transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.export.folder import copy_record, written_beside
from siredon.hardware import Hardware
from siredon.model.adapter_folder import add_frozen_adapters, load_adapter, merge_into


def choose_device(section: AdapterSection, hardware: Hardware) -> str:
    """Where the sum is made: in RAM, where every model fits that could be loaded, unless the config says otherwise."""
    return hardware.device if section.lora_on_cpu is False else "cpu"


def merge_adapter(
    base: Any, section: AdapterSection, adapter: Path, folder: Path, tokenizer: Any, dtype: torch.dtype
) -> None:
    """Adds the adapter, and those below it, to the base weights and writes the sum.

    Args:
        base: The base model in fp32, so that the sum is made in fp32.
        section: Which adapters lie below it.
        adapter: Folder of the adapter; `model.adapter_folder.find_adapter` has seen it.
        folder: Where the model goes; replaced as a whole at the end, so it is never half a model.
        tokenizer: Saved beside the weights.
        dtype: Format of the weights on disk.

    Raises:
        ModelError: An adapter that is no change of the weights.
        CheckpointError: An adapter that does not fit the base.
    """
    base = add_frozen_adapters(base, section)
    merged = merge_into(base, load_adapter(base, adapter))
    merged.to(device="cpu", dtype=dtype)
    merged.config.use_cache = True
    saved = adapter / "generation_config.json"
    if saved.is_file():
        from transformers import GenerationConfig

        merged.generation_config = GenerationConfig.from_pretrained(str(adapter))
    with written_beside(folder) as draft:
        merged.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        copy_record(adapter, draft)
