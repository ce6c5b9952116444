"""What a verb after training is given: a YAML file, or the folder of a run or of a model.  Folder -> `Config`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.config.diagnostics import Diagnostic, num_errors, show_report
from siredon.config.document import write_yaml
from siredon.config.layers import Layer, read_layers
from siredon.config.load import check_document, load_config
from siredon.config.model_folder import find_place, locate_model
from siredon.config.schema import Config, key_homes
from siredon.errors import CheckpointError, ConfigError

RECORD = "run.json"
#: Sections that still say something once the weights are whole: what was trained, and how, is done.
_LASTING = (
    *("model", "placement", "tokenizer", "data", "streaming", "packing", "batch", "loader"),
    *(
        "attention",
        "precision",
        "evaluation",
        "lm_eval",
        "generation",
        "serving",
        "hub",
        "preference",
        "reward",
    ),
)
#: Keys that name a file or folder, in the file and in an entry of its lists.
_PATHS = ("base_model", "base_model_config", "tokenizer_config", "lora_model_dir", "dataset_prepared_path")
_LISTS = ("datasets", "test_datasets", "pretraining_dataset", "lora_frozen_dirs")
#: What every file must say, though nothing is trained.
_REQUIRED = {"learning_rate": 0.0001}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Artifact:
    """Weights, and what is known of where they come from.

    Args:
        folder: The folder with the weights; a GGUF file, or a hub id, as it is.
        given: The keys of the run that made them; empty for a model from elsewhere.
        started_in: The folder that relative paths in `given` are from.
    """

    folder: Path
    given: Mapping[str, Any]
    started_in: Path


def load_target(
    name: str, layers: Sequence[Layer] = (), keeps: tuple[str, ...] = ()
) -> tuple[Config, tuple[Diagnostic, ...]]:
    """Reads what a verb after training is given, with what is laid over it.

    A YAML file is itself.  The folder of a run, one of its checkpoints, and what other verbs have made of it are known
    by the `run.json` in them; its `output_dir` is the folder itself, wherever it lies now.  Any other model is asked
    by its own chat template.

    Args:
        name: A YAML file; a folder with an adapter or a model; a GGUF file; a hub id.
        layers: What is laid over it, one after another.
        keeps: Keys of the run that the verb asks for, though they say how weights were trained that are whole now.

    Returns:
        The config, and the warnings.

    Raises:
        CheckpointError: The folder holds neither adapter nor model.
        ConfigError: At least one error.
    """
    path = Path(name).expanduser()
    is_model = path.is_dir() or name.lower().endswith(".gguf")
    if not is_model and (path.exists() or name.endswith((".yml", ".yaml")) or not _HUB_ID.fullmatch(name)):
        return load_config(name, layers)
    artifact = read_artifact(path if is_model else Path(locate_model(name)))
    text = write_yaml(list_keys(artifact, keeps))
    checked = check_document(read_layers(str(artifact.folder), layers, text))
    if checked.config is None:
        raise ConfigError(show_report(name, checked.diagnostics), num_errors(checked.diagnostics))
    return checked.config, checked.diagnostics


def load_run(folder: Path) -> Config | None:
    """The config of the run that made what a folder holds, with all its keys, also where its weights are whole by now.

    Args:
        folder: A run, a checkpoint, or what was merged; `output_dir` of the config is this folder.

    Returns:
        None where there are no weights, or no run of Siredon made them.

    Raises:
        ConfigError: The keys are no config any more.
    """
    artifact = read_artifact(folder) if _has_weights(folder) else None
    if artifact is None or not artifact.given:
        return None
    keys = {**_resolve(dict(artifact.given), artifact.started_in), "output_dir": str(folder)}
    checked = check_document(read_layers(str(folder), (), write_yaml(keys)))
    if checked.config is None:
        raise ConfigError(show_report(str(folder), checked.diagnostics), num_errors(checked.diagnostics))
    return checked.config


def read_artifact(folder: Path) -> Artifact:
    """What is known of a folder.

    Raises:
        CheckpointError: It holds neither adapter nor model, or its record cannot be read.
    """
    if not folder.is_dir():
        return Artifact(folder, {}, Path.cwd())
    if not _has_weights(folder):
        raise CheckpointError(
            f"{folder} holds neither an adapter nor a model",
            "Name the `output_dir` of a run, a checkpoint in it, or a folder with a model; or the YAML file.",
        )
    for place in (folder / RECORD, folder.resolve().parent / RECORD):
        if place.is_file() and (place.parent == folder or folder.resolve().name.startswith("checkpoint-")):
            record = read_record(place)
            return Artifact(folder, record["given"], Path(record["folder"]))
    return Artifact(folder, {}, Path.cwd())


def list_keys(artifact: Artifact, keeps: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of the config for an artifact; of a run with whole weights also those in `keeps`."""
    folder = artifact.folder
    is_adapter = (folder / "adapter_config.json").is_file()
    if not artifact.given:
        return _REQUIRED | (_describe_adapter(folder) if is_adapter else _describe_model(folder))
    homes = key_homes()
    given = {
        key: value
        for key, value in artifact.given.items()
        # The folder says which weights are judged
        if key != "lm_eval_model"
        and (is_adapter or key in keeps or (key in homes and homes[key].section in _LASTING))
    }
    return {**_REQUIRED, **_resolve(given, artifact.started_in), "output_dir": str(folder)}


def _has_weights(folder: Path) -> bool:
    names = ("adapter_config.json", "config.json")
    return any((folder / name).is_file() for name in names) or find_place(str(folder)).gguf_file is not None


def read_record(path: Path) -> dict[str, Any]:
    """The keys of a run, and the folder that it was started in.

    Raises:
        CheckpointError: The file cannot be read, or is no record.
    """
    try:
        record = json.loads(path.read_text())
        return {"given": dict(record["given"]), "folder": str(record["folder"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read, or is of an older Siredon: {error}",
            "Name the YAML file of the run in place of the folder.",
        ) from error


def _describe_adapter(folder: Path) -> dict[str, Any]:
    """An adapter from elsewhere: its own file names the base."""
    try:
        settings = json.loads((folder / "adapter_config.json").read_text())
        base, kind = str(settings["base_model_name_or_path"]), str(settings["peft_type"]).lower()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'adapter_config.json'} does not say which base the adapter is of: {error}",
            "Write a YAML file with `base_model`, `adapter` and `lora_model_dir`, and name that.",
        ) from error
    kind = {"adaption_prompt": "llama-adapter"}.get(kind, kind)
    tokenizer = {"tokenizer_config": str(folder)} if (folder / "tokenizer_config.json").is_file() else {}
    entry = _name_format(folder if tokenizer else Path(base))
    adapter = {"adapter": kind, "lora_model_dir": str(folder), "output_dir": str(folder)}
    keys = {"base_model": base, **tokenizer, **adapter, "datasets": [entry]}
    return keys | _describe_judge(entry, str(settings.get("task_type")))


def _describe_model(folder: Path) -> dict[str, Any]:
    """A model from elsewhere."""
    entry = _name_format(folder)
    keys = {"base_model": str(folder), "output_dir": str(folder), "datasets": [entry]}
    try:
        settings = json.loads((folder / "config.json").read_text())
        names, labels = list(settings.get("architectures") or ()), len(settings.get("id2label") or (0, 1))
    except (OSError, ValueError, AttributeError, TypeError):
        return keys
    kinds = {"ForSequenceClassification": 1, "ForTokenClassification": 2}
    found = [end for end, num in kinds.items() if names and str(names[0]).endswith(end) and labels == num]
    return keys | (_describe_judge(entry, _TASKS[found[0]]) if found else {})


#: What a model that judges is called by transformers -> by PEFT.
_TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}


def _describe_judge(entry: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The keys of a model that gives scores to answers, or to steps; none for one that writes."""
    if task == "SEQ_CLS":
        return {"reward_model": True, "datasets": [{**entry, "type": "bradley_terry.chat_template"}]}
    if task == "TOKEN_CLS":
        return {"process_reward_model": True, "datasets": [{**entry, "type": "stepwise_supervised"}]}
    return {}


def _name_format(folder: Path) -> dict[str, Any]:
    """An entry of `datasets` that says how the model is asked: by its chat template, if it has one."""
    return {"path": str(folder), "type": "chat_template" if _has_template(folder) else "completion"}


def _has_template(folder: Path) -> bool:
    if not folder.is_dir() or find_place(str(folder)).gguf_file is not None:
        return True  # The tokenizer says if there is none
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _resolve(given: dict[str, Any], started_in: Path) -> dict[str, Any]:
    """The keys with paths that hold from everywhere, where what they name is still there."""

    def resolve(value: Any) -> Any:
        place = started_in / Path(value).expanduser() if isinstance(value, str) and value else None
        return str(place) if place is not None and place.exists() else value

    found = {key: resolve(value) if key in _PATHS else value for key, value in given.items()}
    for key in _LISTS:
        if isinstance(found.get(key), list):
            found[key] = [
                {**entry, "path": resolve(entry["path"])}
                if isinstance(entry, dict) and "path" in entry
                else resolve(entry)
                for entry in found[key]
            ]
    return found
