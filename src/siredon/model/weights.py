"""What is in the files of a model: all of the weights, or a GGUF file's."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from siredon.errors import ModelError
from siredon.log import warn

_SHOWN = 3


def check_whole(name: str, class_name: str, info: Mapping[str, Any]) -> None:
    """Every weight of the model came out of its files.

    transformers fills what is missing with random numbers, and says so where nobody reads it.  Only a head that is new
    by its nature, such as that of a reward model, may begin so.

    Args:
        name: The model, for the message.
        class_name: Its class.
        info: What `from_pretrained` tells of its work.

    Raises:
        ModelError: Weights of a language model are missing.
    """
    is_judge = class_name.endswith("Classification")  # Its own head is new, and said to be where it is drawn
    missing = sorted(name for name in info["missing_keys"] if not (is_judge and name.startswith("score.")))
    if missing and class_name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")):
        raise ModelError(
            f"base_model: {name} lacks {_list(missing)}, which {class_name} needs",
            "Fetch the model again, or name the class that its weights are of with `model_type`; random weights are "
            "asked for with `reinit_weights: true`.",
        )
    if missing:
        warn(f"{_list(missing)} of {class_name} begin at random: {name} has none")
    mismatched = sorted(str(key[0]) for key in info["mismatched_keys"])
    if mismatched:
        warn(f"{_list(mismatched)} of {class_name} begin at random: those of {name} have another shape")
    unexpected = sorted(name for name in info["unexpected_keys"] if not (is_judge and "lm_head" in name))
    if unexpected:
        warn(f"{name} also holds {_list(unexpected)}, which {class_name} does not use")


def read_gguf(
    model_class: Any, folder: str, file: str, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model in a GGUF file, its blocks of few bits unpacked, and what transformers tells of its work.

    Args:
        model_class: A class of transformers.
        folder: Where the file is; a hub id.
        file: Its name.
        options: Of `from_pretrained`.
    """
    with alone(folder, file) as place, redirect_stderr(io.StringIO()):  # A bar that cannot be turned off
        model, info = model_class.from_pretrained(place, **options, **gguf_options(file))
    model.name_or_path = model.config.name_or_path = folder
    forget_gguf_(model)
    return model, info


@contextmanager
def alone(folder: str, file: str | None) -> Iterator[str]:
    """A folder with nothing but a GGUF file in it; the folder itself without such a file, or of a hub id.

    Beside an adapter, as in the folder of a run, transformers would read that one's base in place of the file, and a
    tokenizer without its chat template.
    """
    place = Path(folder) / (file or "")
    if file is None or not place.is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / file).symlink_to(place.resolve())
        yield other


def gguf_options(file: str) -> dict[str, Any]:
    """How a GGUF file is read: its blocks of few bits unpacked to plain weights, which can be trained."""
    from transformers.utils import quantization_config

    options: dict[str, Any] = {"gguf_file": file}
    if "GgufConfig" in vars(quantization_config):  # before it, every GGUF file was unpacked
        options["quantization_config"] = quantization_config.GgufConfig(dequantize=True)
    return options


def forget_gguf_(model: Any) -> None:
    """Makes a model of a GGUF file one of plain weights, as it is: the mark would keep it from being saved."""
    if "hf_quantizer" in vars(model) and model.hf_quantizer is not None:
        model.hf_quantizer.remove_quantization_config(model)


def _list(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - _SHOWN
    return ", ".join(known[:_SHOWN]) + (f" and {more} more weights" if more > 0 else "")
