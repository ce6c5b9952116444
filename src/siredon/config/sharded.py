"""What `merge-sharded-fsdp-weights` is given: the YAML of a run, or a folder with a sharded checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from siredon.config.artifact import RECORD, Artifact, list_keys, read_record
from siredon.config.diagnostics import Diagnostic, num_errors, show_report
from siredon.config.document import Document, write_yaml
from siredon.config.layers import Layer, read_layers
from siredon.config.load import check_document
from siredon.config.model_folder import locate_model
from siredon.config.names import RENAMED
from siredon.config.schema import Config, key_homes
from siredon.errors import CheckpointError, ConfigError
from siredon.log import note

#: What Accelerate calls the folder with the weights of a model.
WEIGHTS = "pytorch_model_fsdp_0"
#: Sections that say how the run was shared among GPUs, which its result does not depend on.
_PAST = ("distributed", "fsdp", "deepspeed")
#: Keys of other sections that say so, too.
_PAST_KEYS = ("qlora_sharded_model_loading", "fp8_enable_fsdp_float8_all_gather")


def load_sharded(name: str, layers: Sequence[Layer] = ()) -> tuple[Config, tuple[Diagnostic, ...]]:
    """Reads a YAML file, or finds out what a checkpoint is one of, with what is laid over it.

    How the run was shared among GPUs is left aside, so a file with `fsdp_config` is no error here.

    Args:
        name: A YAML file; the folder of a run, of one of its checkpoints, or of the pieces themselves.
        layers: What is laid over it, one after another.

    Returns:
        The config, whose `output_dir` is the folder of the run, and the warnings.

    Raises:
        CheckpointError: Nothing says which model the checkpoint is of.
        ConfigError: At least one error.
    """
    folder = Path(name).expanduser()
    text = write_yaml(_describe(folder, layers)) if folder.is_dir() else None
    checked = check_document(_leave_aside(read_layers(name, layers, text)))
    if checked.config is None:
        raise ConfigError(show_report(name, checked.diagnostics), num_errors(checked.diagnostics))
    return checked.config, checked.diagnostics


def find_run(folder: Path) -> Path:
    """The folder in which the run, or a checkpoint of it, has put a folder of pieces; else the folder itself."""
    return folder.resolve().parent if folder.resolve().name == WEIGHTS else folder


def _describe(folder: Path, layers: Sequence[Layer]) -> dict[str, Any]:
    """The keys of the config for a checkpoint, by what lies beside it."""
    run = str(find_run(folder))
    places = list(_list_places(folder))
    for place in places:
        if (place / RECORD).is_file():
            record = read_record(place / RECORD)
            return {**list_keys(Artifact(place, record["given"], Path(record["folder"]))), "output_dir": run}
    for place in places:
        if (place / "adapter_config.json").is_file():
            return {**list_keys(Artifact(place, {}, place)), "output_dir": run}
    given = [
        setting.value for layer in layers for setting in layer.settings if setting.path == ("base_model",)
    ]
    models = [place for place in places if (place / "config.json").is_file()]
    base = Path(locate_model(str(given[-1]))) if given else next(iter(models), None)
    if base is None:
        raise CheckpointError(
            f"nothing in {folder} says which model its weights are of",
            "Add `--base-model NAME`; or name the YAML file of the run, and this folder by `--checkpoint`.",
        )
    return {**list_keys(Artifact(base, {}, base)), "output_dir": run}


def _list_places(folder: Path) -> Iterator[Path]:
    """The folder, and those above it that belong to the same run."""
    place = folder.resolve()
    yield place
    while place.name == WEIGHTS or place.name.startswith("checkpoint-"):
        place = place.parent
        yield place


def _leave_aside(document: Document) -> Document:
    past = [key for key in document.values if _is_past(key)]
    if past:
        note(f"of the run, and not of its result: {', '.join(past)}")
    return replace(document, values={key: value for key, value in document.values.items() if key not in past})


def _is_past(key: str) -> bool:
    name = RENAMED[key].new.partition(".")[0] if key in RENAMED else key
    homes = key_homes()
    return name in _PAST_KEYS or (name in homes and homes[name].section in _PAST)
