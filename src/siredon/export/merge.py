"""An adapter merged into its base: a normal model folder that plain transformers loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch


def merge_adapter(base: Any, adapter: Path, folder: Path, tokenizer: Any, dtype: torch.dtype) -> None:
    """Adds the adapter to the base weights and writes the sum.

    Args:
        base: The base model in fp32, so that the sum is made in fp32.
        adapter: Folder of the adapter; `model.adapt.check_adapter` has seen it.
        folder: Where the model goes; replaced as a whole at the end, so it is never half a model.
        tokenizer: Saved beside the weights.
        dtype: Format of the weights on disk.
    """
    from peft import PeftModel

    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    merged.to(dtype)
    merged.config.use_cache = True
    saved = adapter / "generation_config.json"
    if saved.is_file():
        from transformers import GenerationConfig

        merged.generation_config = GenerationConfig.from_pretrained(str(adapter))
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        merged.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
