"""Keeps the chatter of libraries off the screen, where only what the user can act on should stand."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Errors of transformers are shown, its progress bars and advice to its own developers are not."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # bitsandbytes says of every 8-bit product, and torchao at its import, what is on the page about them.
    quantizing = ("bitsandbytes", "torchao", "torch.utils._pytree")
    for name in ("torch.distributed", "huggingface_hub", "kernels", *quantizing):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Weights of others are widened by what is passed, and by their own config otherwise.
    warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
    # A GGUF file has no config.json beside it; new rows are the same whoever loads the base (`embeddings.py`).
    warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)
    # Saving resized embeddings with an adapter is what is wanted.
    warnings.filterwarnings("ignore", message=".*save_embedding_layers.*", category=UserWarning)
