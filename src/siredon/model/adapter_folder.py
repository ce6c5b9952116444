"""Adapters on disk: found, checked, loaded, trained on, and freed from the start that took weights from the base."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import CheckpointError, ModelError
from siredon.log import note
from siredon.model.attach import without_needless_warnings
from siredon.model.loftq import ROUNDED, round_base_
from siredon.model.score_head import name_task
from siredon.model.targets import find_targets

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: LoRA's start values, beside an adapter that is to be used with what they left of the base.
START = "adapter_start.safetensors"
_WAY_OUT = "Train first (`siredon train CONFIG`), and use the same `output_dir`."


def find_adapter(section: AdapterSection, output: Path, *, merges: bool = False) -> Path:
    """The folder of the adapter to ask or merge: what a run wrote to `output_dir`, or else `lora_model_dir`.

    Args:
        section: Says which folder is the other one.
        output: `output_dir`.
        merges: It is to be merged.

    Raises:
        CheckpointError: Neither holds a whole adapter.
        ModelError: The adapter is no change of the weights.
    """
    given = section.lora_model_dir
    if given and not (output / SETTINGS).is_file():
        output = Path(given).expanduser()
        note(f"adapter: {output}")
    if merges:
        check_mergeable(output)
    check_adapter(output)
    return output


def check_mergeable(folder: Path) -> None:
    """Refuses what is no whole adapter, or no change of the weights.

    Raises:
        CheckpointError: What is missing.
        ModelError: The adapter is no change of the weights.
    """
    check_adapter(folder)
    if json.loads((folder / SETTINGS).read_text())["peft_type"] == "ADAPTION_PROMPT":
        raise ModelError(
            "`adapter: llama-adapter` cannot be merged: its prompts are no change of the weights",
            "Use the adapter as it is, beside its base.",
        )


def check_adapter(folder: Path, way_out: str = _WAY_OUT) -> None:
    """Refuses a folder that holds no whole adapter.

    Raises:
        CheckpointError: What is missing, and how it comes about.
    """
    if not (folder / SETTINGS).is_file() and (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds a whole model and no adapter",
            "Use that model as it is: a run with `relora: true`, or without `adapter`, writes one, merged already.",
        )
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} holds no adapter: {name} is missing", way_out)


def load_adapter(model: Any, folder: Path, **options: Any) -> Any:
    """The model with the adapter in `folder`.

    Args:
        model: The base model, as it is on disk.
        folder: The adapter, or a checkpoint of one.
        options: What `PeftModel.from_pretrained` takes.

    Raises:
        CheckpointError: The folder holds no whole adapter, or one that does not fit the model.
    """
    from peft import PeftModel

    check_adapter(folder)
    with without_start(folder) as free, _explained(folder):
        adapted = PeftModel.from_pretrained(
            model, str(free), torch_device=str(model.get_input_embeddings().weight.device), **options
        )
    round_base_(adapted, folder)
    return adapted


def add_adapter_(adapted: Any, folder: Path, name: str) -> None:
    """Loads one more adapter beside that of a model; `set_adapter` of PEFT switches to it.

    Args:
        adapted: What `load_adapter` returned.
        folder: The other adapter, of the same base.
        name: PEFT's name for it, without dots.

    Raises:
        CheckpointError: The folder holds no whole adapter, or one that does not fit beside the first.
    """
    check_adapter(folder)
    if (folder / ROUNDED).is_file():
        raise CheckpointError(
            f"the adapter in {folder} was trained on a rounded base, which the others are not",
            "Serve it by itself.",
        )
    device = str(adapted.get_input_embeddings().weight.device)
    with without_start(folder) as free, _explained(folder):
        adapted.load_adapter(str(free), adapter_name=name, torch_device=device)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What PEFT says of an adapter that does not fit, as an error with a way out."""
    with without_needless_warnings():
        try:
            yield
        except (RuntimeError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise CheckpointError(
                f"the adapter in {folder} does not fit this model: {reason}",
                "Use the `base_model` that it was trained on.",
            ) from error


def add_frozen_adapters(model: Any, section: AdapterSection) -> Any:
    """The model with the adapters of `lora_frozen_dirs` merged in, one after the other.

    Raises:
        ModelError: The base's weights have few bits: a sum would have to be rounded anew.
        CheckpointError: A folder holds no whole adapter, or one that does not fit the model.
    """
    for name in section.lora_frozen_dirs:
        if any(not weight.is_floating_point() for weight in model.parameters()):
            raise ModelError(
                "`lora_frozen_dirs` needs whole weights: adapters cannot be added to weights of few bits",
                "Merge them first (`siredon merge-lora`), and train on the merged model.",
            )
        folder = Path(name).expanduser()
        check_adapter(folder, "Name folders that `siredon train` wrote in `lora_frozen_dirs`.")
        find_adapter(section.model_copy(update={"lora_model_dir": None}), folder, merges=True)
        model = merge_into(model, load_adapter(model, folder))
        note(f"added to the base: the adapter in {folder}")
    return model


def merge_into(base: Any, adapted: Any) -> Any:
    """The base with its adapter added to the weights.

    Args:
        base: The model of transformers inside `adapted`.
        adapted: The same, wrapped by PEFT.
    """
    from peft import PeftType

    settings = adapted.peft_config["default"]
    if settings.peft_type == PeftType.LORA and settings.layer_replication:
        _unshare_(base)
    return adapted.merge_and_unload(safe_merge=True)


def train_on(model: Any, section: AdapterSection) -> Any:
    """The model with the adapter in `lora_model_dir`, to be trained further.

    Raises:
        CheckpointError: The folder holds no whole adapter, or one of another kind than the config says.
    """
    folder = Path(section.lora_model_dir or "").expanduser()
    check_adapter(folder, "Name a folder that `siredon train` wrote in `lora_model_dir`.")
    settings = json.loads((folder / SETTINGS).read_text())
    _check_task(name_task(model), str(settings.get("task_type")), folder)
    names = _adapted_names(model, section)
    adapted = load_adapter(
        model, folder, is_trainable=True, autocast_adapter_dtype=section.peft_autocast_adapter_dtype
    )
    _check_same(section, settings, folder)
    there = set(adapted.base_model.targeted_module_names) | set(adapted.base_model.targeted_parameter_names)
    if names and names != there:
        odd = sorted(names ^ there)[0]
        raise CheckpointError(
            f"the adapter in {folder} is on other layers than the config names: {odd} is in one of them only",
            "Remove `lora_target_modules`, `lora_target_linear` and `lora_target_parameters`: the adapter knows.",
        )
    return adapted


def read_start(adapted: Any) -> dict[str, torch.Tensor]:
    """LoRA's weights as they are now, by their names on disk, on the CPU."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(adapted)
    return {
        name: weight.detach().cpu().clone()
        for name, weight in weights.items()
        if ".lora_A." in name or ".lora_B." in name
    }


def free_of_start_(folder: Path) -> None:
    """Turns an adapter that belongs to what its start left of the base into one of the base itself.

    With B0 A0 the start, the trained weight is W - s B0 A0 + s B A.  As LoRA on W that is [B, -B0] [A; A0], of
    twice the rank: s (B A - B0 A0), exactly.  Scale and rank are doubled together, so s stays.

    Args:
        folder: An adapter; nothing is done without start values beside it.
    """
    from safetensors.torch import load_file, save_file

    path = folder / START
    if not path.is_file():
        return
    start, weights = load_file(str(path)), load_file(str(folder / WEIGHTS))
    settings = json.loads((folder / SETTINGS).read_text())
    for name, first in start.items():
        is_a = ".lora_A." in name
        if weights[name].shape == first.shape:  # else a run was killed after the weights were replaced
            first = first.to(weights[name].dtype)
            weights[name] = torch.cat([weights[name], first if is_a else -first], dim=0 if is_a else 1)
    beside = folder / f".{WEIGHTS}"
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        str(beside),
        metadata={"format": "pt"},
    )
    os.replace(beside, folder / WEIGHTS)
    if settings["init_lora_weights"] is not True:
        _double_rank_(settings)
        beside = folder / f".{SETTINGS}"
        beside.write_text(json.dumps(settings, indent=2, sort_keys=True))
        os.replace(beside, folder / SETTINGS)
    path.unlink()


def _double_rank_(settings: dict[str, Any]) -> None:
    more = 2**0.5 if settings["use_rslora"] else 2
    settings["init_lora_weights"] = True
    settings["r"] *= 2
    settings["lora_alpha"] *= more
    settings["rank_pattern"] = {name: 2 * rank for name, rank in settings["rank_pattern"].items()}
    settings["alpha_pattern"] = {name: more * alpha for name, alpha in settings["alpha_pattern"].items()}


@contextmanager
def without_start(folder: Path) -> Iterator[Path]:
    """The folder, or a copy of it that is free of its start."""
    if not (folder / START).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in (SETTINGS, WEIGHTS, START):
            shutil.copy2(folder / name, copy)
        free_of_start_(Path(copy))
        yield Path(copy)


def _check_task(task: str, there: str, folder: Path) -> None:
    """An adapter for a model that judges has its head, which one for a model that writes has not."""
    if task == there or "CLS" not in f"{task} {there}":
        return
    if there.endswith("_CLS"):
        raise CheckpointError(
            f"the adapter in {folder} is of a model that judges",
            "Train on it with `reward_model: true` or `process_reward_model: true`, as it was trained.",
        )
    raise CheckpointError(
        f"the adapter in {folder} has no head of scores",
        "Merge it (`siredon merge-lora`), and train a model that judges on the merged one.",
    )


def _adapted_names(model: Any, section: AdapterSection) -> set[str]:
    """What the config names; empty where it leaves that to the adapter."""
    if not (section.lora_target_modules or section.lora_target_linear or section.lora_target_parameters):
        return set()
    targets = find_targets(model, section)
    return {*targets.modules, *targets.parameters}


def _check_same(section: AdapterSection, settings: dict[str, Any], folder: Path) -> None:
    kind = {"qlora": "lora", "llama-adapter": "adaption_prompt"}.get(section.adapter or "", section.adapter)
    asked: dict[str, tuple[Any, Any]] = {"adapter": (kind, str(settings["peft_type"]).lower())}
    if section.is_lora:
        asked |= {
            "lora_r": (section.lora_r, settings["r"]),
            "lora_alpha": (section.lora_alpha, settings["lora_alpha"]),
            "lora_dropout": (section.lora_dropout, settings["lora_dropout"]),
            "lora_bias": (section.lora_bias, settings["bias"]),
            "peft_use_dora": (section.peft_use_dora, settings["use_dora"]),
            "peft_use_rslora": (section.peft_use_rslora, settings["use_rslora"]),
        }
    asked["lora_modules_to_save"] = (
        sorted(section.lora_modules_to_save),
        sorted(settings.get("modules_to_save") or ()),
    )
    for name, (here, there) in asked.items():
        if name in section.model_fields_set and here is not None and here != there:
            raise CheckpointError(
                f"`{name}: {here}`: the adapter in {folder} has {there}",
                f"Write {there}, or remove the key." if name != "adapter" else f"Write `adapter: {there}`.",
            )


def _unshare_(model: Any) -> None:
    """Gives every block weights of its own: in a stack of replicated blocks several share one tensor."""
    seen: set[int] = set()
    for module in list(model.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in seen and module is not model.get_output_embeddings():
                setattr(module, name, torch.nn.Parameter(weight.detach().clone(), weight.requires_grad))
            seen.add(id(weight))
