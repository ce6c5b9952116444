"""A GGUF file as transformers reads it back."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from siredon.errors import ModelError
from siredon.export.gguf_model import ROPE_FACTORS
from siredon.model.locate import LOADING_ERRORS


class GgufFile:
    """Keys and tensors of a file."""

    def __init__(self, path: Path) -> None:
        import gguf

        self.path = path
        self._reader = gguf.GGUFReader(str(path))
        self.architecture = str(self.read("general.architecture"))
        #: Name of a tensor -> the name of its format.
        self.types = {tensor.name: tensor.tensor_type.name for tensor in self._reader.tensors}

    def read(self, key: str) -> Any:
        """The value of a key; None if it is not there."""
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def read_tensor(self, name: str) -> torch.Tensor:
        """A tensor in fp32, as it lies in the file."""
        import gguf

        tensor = next(tensor for tensor in self._reader.tensors if tensor.name == name)
        return torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))


def load_back(file: GgufFile) -> tuple[Any, Any]:
    """Model in fp32, on the CPU, and tokenizer of a file.

    What transformers leaves unread is set from what the file says: the size of a head, biases, scaled positions.

    Raises:
        ModelError: transformers cannot read the file.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.path.name}
    # In a folder of its own: beside an adapter, transformers would load that one's base in place of the file
    with tempfile.TemporaryDirectory() as folder, _explained(file):
        (Path(folder) / file.path.name).symlink_to(file.path.resolve())
        config = AutoConfig.from_pretrained(folder, **place)
        config.update({"head_dim": int(file.read(f"{file.architecture}.attention.key_length"))})
        if "attention_bias" in config.to_dict():
            config.update({"attention_bias": "blk.0.attn_q.bias" in file.types})
        factor = file.read(f"{file.architecture}.rope.scaling.factor")
        if factor is not None:
            config.rope_parameters = {
                **config.rope_parameters,
                "rope_type": "linear",
                "factor": float(factor),
            }
        with redirect_stderr(io.StringIO()):  # A bar that cannot be turned off
            model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, **place)
        tokenizer = AutoTokenizer.from_pretrained(folder, **place)
    if ROPE_FACTORS in file.types:
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / file.read_tensor(ROPE_FACTORS)
    return model.eval(), tokenizer


@contextmanager
def _explained(file: GgufFile) -> Iterator[None]:
    """What transformers raises, as an error with a way out."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ModelError(
            f"transformers cannot read {file.path.name} back: {error}",
            "This is a mistake in siredon: report it.",
        ) from error
