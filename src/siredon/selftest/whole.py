"""Whole runs: a file of keys, trained by the verb that `siredon train` runs, and merged by that of `merge-lora`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.hardware import probe_hardware
from siredon.selftest.tiny import ROWS
from siredon.selftest.trial import write_data

if TYPE_CHECKING:
    from siredon.selftest.rig import Rig

#: What trains a config, and what merges the adapter of one.
Verbs = tuple[Callable[[Config], None], Callable[[Config], None]]

LORA: dict[str, Any] = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}


def explain_runs(rig: Rig) -> str:
    """Why no whole run can be made here; empty if one can."""
    if rig.verbs is None:
        return "whole runs take the verbs of the command line"
    if probe_hardware().device != rig.hardware.device:
        return "a whole run takes the GPU of this machine: try `--device gpu`"
    return ""


class Run:
    """A run in a folder of its own.

    Args:
        rig: Where.
        keys: What differs from a few steps over the rows of the trials.
    """

    def __init__(self, rig: Rig, **keys: Any) -> None:
        self.folder = rig.make_folder("run")
        self.output = self.folder / "out"
        self._rig = rig
        self.config = _load(rig, self.folder, {"output_dir": str(self.output), **keys})

    def train(self) -> Path:
        """Trains; returns the folder of the result.

        Raises:
            SiredonError: It could not be.
        """
        assert self._rig.verbs is not None
        train, _ = self._rig.verbs
        _hush(lambda: train(self.config))
        return self.output

    def merge(self) -> Path:
        """Merges the adapter of the run; returns the folder of the model.

        Raises:
            SiredonError: It could not be.
        """
        assert self._rig.verbs is not None
        _, merge = self._rig.verbs
        _hush(lambda: merge(self.config))
        return self.output / "merged"


def _hush(work: Callable[[], None]) -> None:
    # What is printed is for users of a run; an error is raised.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        work()


def _load(rig: Rig, folder: Path, keys: Mapping[str, Any]) -> Config:
    values = {
        "base_model": str(rig.write_model("llama")),
        "datasets": [{"path": str(write_data(rig.folder, ROWS)), "type": "tokenized"}],
        "dataset_prepared_path": str(rig.folder / "prepared"),
        "sequence_len": 128,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
        "learning_rate": 0.01,
        "lr_scheduler": "linear",
        "bf16": False,
        "tf32": False,
        "logging_steps": 1,
        "save_strategy": "no",
        **keys,
    }
    path = folder / "config.yml"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    config, _ = load_config(str(path))
    return config


def read_weights(folder: Path) -> dict[str, Any]:
    """The tensors of a model or adapter on disk."""
    from safetensors.torch import load_file

    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model.safetensors")
