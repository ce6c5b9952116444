"""The model that is exported: whole weights in a folder.  A run with an adapter is merged first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.config.model_folder import find_place
from siredon.config.schema import Config
from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.errors import CheckpointError, ModelError
from siredon.export.tensor_files import WEIGHTS, Shards, list_shards
from siredon.log import note
from siredon.model.locate import tuned_model
from siredon.model.precision import FORMATS
from siredon.model.tokenizer import load_own_tokenizer


@dataclass(frozen=True)
class Source:
    """A folder with whole weights.

    Args:
        folder: Config, weights in safetensors, tokenizer.
        run: The folder that its record and its exports lie in: that of the run, or `folder` itself.
        trusts_code: Whether Python code in it may be run.
    """

    folder: Path
    run: Path
    trusts_code: bool = False

    @property
    def name(self) -> str:
        """What the model is called: the name of the run's folder."""
        return self.run.resolve().name

    def read_config(self) -> dict[str, Any]:
        """Its `config.json`."""
        return dict(json.loads((self.folder / "config.json").read_text()))

    def read_dtype(self) -> torch.dtype:
        """The format that its weights are stored in, by its config; fp32 where that says nothing."""
        config = self.read_config()
        name = config.get("dtype") or config.get("torch_dtype") or "float32"
        return FORMATS.get(str(name).removeprefix("torch."), torch.float32)

    def load_tokenizer(self) -> Any:
        """Its tokenizer, as it is."""
        section = ModelSection(base_model=str(self.folder), trust_remote_code=self.trusts_code)
        return load_own_tokenizer(TokenizerSection(), section)

    def load_model(self, dtype: torch.dtype) -> Any:
        """Its model, on the CPU."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            str(self.folder), dtype=dtype, trust_remote_code=self.trusts_code
        )
        return model.eval()

    def read_stop_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Tokens that end an answer: the tokenizer's own first, then those of `generation_config.json`."""
        path = self.folder / "generation_config.json"
        found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        others = found if isinstance(found, list) else [found]
        ids = [tokenizer.eos_token_id, *others]
        return tuple(dict.fromkeys(int(stop) for stop in ids if stop is not None))


def find_source(config: Config, merge: Callable[[Config], None]) -> Source:
    """The folder with the whole weights of what a command line names.

    Args:
        config: What the command line names.
        merge: Merges the adapter of a run into `output_dir/merged`; called if that is not there, or older.

    Raises:
        CheckpointError: No weights.
        ModelError: Weights of few bits, or a GGUF file.
    """
    output = config.checkpoint.output_folder
    trusts_code = bool(config.model.trust_remote_code)
    if config.adapter.adapter is not None:
        folder = output / "merged"
        if _is_older(folder / "config.json", output / "adapter_model.safetensors"):
            note(f"merging the adapter first: {folder}")
            merge(config)
        else:
            note(f"the adapter is merged already: {folder}")
    else:
        place = find_place(tuned_model(config.model, output).base_model)
        if place.gguf_file is not None:
            raise ModelError(
                f"{place.gguf_file} is a GGUF file already, whose weights are not rounded again",
                "Export the run, or the merged model, that it was made of.",
            )
        folder = Path(place.folder)
    return open_source(folder, output, trusts_code=trusts_code)


def open_source(folder: Path, run: Path, *, trusts_code: bool) -> Source:
    """A folder with whole weights.

    Args:
        folder: The folder.
        run: Where its record and its exports lie.
        trusts_code: Whether Python code in it may be run.

    Raises:
        CheckpointError: No weights.
        ModelError: Weights of few bits.
    """
    source = Source(folder, run, trusts_code)
    _check(source)
    return source


def _is_older(path: Path, other: Path) -> bool:
    """Whether `path` is missing, or older than `other`."""
    return not path.is_file() or (other.is_file() and path.stat().st_mtime < other.stat().st_mtime)


def _check(source: Source) -> None:
    folder = source.folder
    if not folder.exists():
        raise CheckpointError(
            f"{folder} is not on this machine", f"Fetch it first: `hf download {folder} --local-dir FOLDER`."
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds no model in the form of safetensors",
            "Name the run, or the folder that it was merged into.",
        )
    kept = source.read_config().get("quantization_config")
    if kept:
        raise ModelError(
            f"the weights in {folder} have few bits ({kept.get('quant_method', 'quantized')}): rounding them again "
            "would add one error to another",
            "Export the run or the merged model that they were made of.",
        )
    if not list_shards(folder):
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS}", "Train or merge first; the model must be in safetensors."
        )


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a folder of safetensors, one after another, in the order of their names."""
    shards = Shards(list_shards(folder))
    for name in sorted(shards):
        yield name, shards.read(name)
