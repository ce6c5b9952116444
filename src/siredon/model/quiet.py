"""Keeps the chatter of libraries off the screen, where only what the user can act on should stand."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings


def quiet_libraries() -> None:
    """Errors of transformers are shown, its progress bars and advice to its own developers are not."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # bitsandbytes says of every 8-bit product, and torchao at its import, what is on the page about them.
    quantizing = ("bitsandbytes", "torchao", "torch.utils._pytree")
    for name in ("torch.distributed", "huggingface_hub", *quantizing):
        logging.getLogger(name).setLevel(logging.ERROR)
    _import_bitsandbytes()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # A GGUF file has no config.json beside it; new rows are the same whoever loads the base (`embeddings.py`).
    warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)
    # Saving resized embeddings with an adapter is what is wanted.
    warnings.filterwarnings("ignore", message=".*save_embedding_layers.*", category=UserWarning)


def _import_bitsandbytes() -> None:
    """Imports bitsandbytes, as PEFT would, so that it asks nobody for code.

    Where the processor multiplies bfloat16 and the package kernels is installed, its import fetches compiled products
    from the hub, and runs them.  They are for evaluation alone, and are not used: see `quantizers/load_in_4bit.py`.
    """
    fetcher = "kernels"
    if "bitsandbytes" in sys.modules or not all(map(importlib.util.find_spec, ("bitsandbytes", fetcher))):
        return
    kept = sys.modules.pop(fetcher, None)
    sys.modules[fetcher] = None  # type: ignore[assignment]
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules[fetcher]
        if kept is not None:
            sys.modules[fetcher] = kept
