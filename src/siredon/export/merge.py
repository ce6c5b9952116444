"""Adapters merged into their base: a normal model folder that plain transformers loads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from siredon.config.model_folder import find_folder, find_place
from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.errors import CheckpointError, ModelError
from siredon.export.merge_base import load_merge_base
from siredon.export.merge_device import choose_rounding_device, explain_devices
from siredon.export.merge_round import Rounding
from siredon.export.merge_shards import Rows, ShardMerge, Start, prepare_shard_merge
from siredon.export.merge_stage import Change, check_scalable, scale_
from siredon.export.tensor_files import Shards, list_shards
from siredon.export.widened_shards import PARTS, WidenedShards
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.adapter_folder import (
    SETTINGS,
    add_frozen_adapters,
    check_mergeable,
    find_adapter,
    load_adapter,
    merge_into,
)
from siredon.model.load import Source, load_skeleton
from siredon.model.loftq import ROUNDED
from siredon.model.model_config import load_model_config
from siredon.model.precision import resolve_precision
from siredon.model.quantized import read_method


def find_changes(section: AdapterSection, output: Path, given: Sequence[str]) -> list[Change]:
    """The adapters that are asked for, in their order.

    Args:
        section: Which adapter is the run's.
        output: `output_dir`.
        given: `DIR` or `DIR:WEIGHT`; empty for that of the run.

    Raises:
        CheckpointError: A folder holds no whole adapter.
        ModelError: One that cannot be merged, or not together with others; a weight that is no number.
    """
    changes = [_read_change(text) for text in given]
    if not changes:
        return [Change(find_adapter(section, output, merges=True))]
    for change in changes:
        check_mergeable(change.folder)
        if len(changes) > 1 or change.weight != 1:
            from peft import PeftConfig

            check_scalable(PeftConfig.from_pretrained(str(change.folder)))
    return changes


def _read_change(text: str) -> Change:
    """`DIR` or `DIR:WEIGHT`."""
    name, colon, factor = text.rpartition(":")
    if not colon or Path(text).expanduser().is_dir():
        return Change(Path(text).expanduser())
    try:
        weight = float(factor)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ModelError(
            f"`--adapter {text}`: {factor!r} is no weight", "Write `--adapter DIR` or `--adapter DIR:0.5`."
        )
    return Change(Path(name).expanduser(), weight)


def merge_adapters(
    config: Config, changes: Sequence[Change], tokenizer: Any, hardware: Hardware, folder: Path
) -> str:
    """Adds adapters, and those below them, to the base weights and writes model, settings and tokenizer.

    Args:
        config: The whole config of the run.
        changes: The adapters, one after another.
        tokenizer: Saved beside the weights.
        hardware: What there is.
        folder: An empty folder.

    Returns:
        `memory_efficient` or `legacy`: how it was done.

    Raises:
        ModelError: The base cannot be loaded; an adapter that is no change of the weights.
        CheckpointError: An adapter that does not fit the base.
    """
    device = choose_device(config.adapter, hardware)
    dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    model, plan, reason = _prepare(config, changes, tokenizer, hardware, device)
    if plan is not None:
        note("merging file by file, in fp32")
        plan.write(folder, dtype)
    else:
        note(f"merging the whole model in memory, in fp32: {reason}")
        model = _merge_whole(config, changes, tokenizer, hardware)
        model.to(device="cpu", dtype=dtype)
    model.config.use_cache = True
    _set_generation_(model, config, changes[-1].folder)
    if plan is None:
        model.save_pretrained(folder)
    else:
        write_settings(model, folder, dtype)
    tokenizer.save_pretrained(folder)
    method = "legacy" if plan is None else "memory_efficient"
    explained = explain_rounding(config, changes, method, hardware)
    if explained:
        note(explained)
    return method


def explain_rounding(config: Config, changes: Sequence[Change], method: str, hardware: Hardware) -> str:
    """How far a merge's base is from that of training, where another kind of device rounds it; else empty.

    Args:
        config: The whole config of the run.
        changes: The adapters.
        method: What `merge_adapters` returned.
        hardware: What there is.
    """
    adapter = changes[0].folder
    used = choose_rounding_device(adapter, hardware) if method == "memory_efficient" else hardware.device
    return explain_devices(config.quantization, adapter, used)


def choose_device(section: AdapterSection, hardware: Hardware) -> str:
    """Where the sum is made: in RAM, where every model fits that could be loaded, unless the config says otherwise."""
    return hardware.device if section.lora_on_cpu is False else "cpu"


def _prepare(
    config: Config, changes: Sequence[Change], tokenizer: Any, hardware: Hardware, device: str
) -> tuple[Any, ShardMerge | None, str]:
    """The base without weights and the merge file by file; or why there is none."""
    below = [Change(Path(name).expanduser()) for name in config.adapter.lora_frozen_dirs]
    for change in below:
        check_mergeable(change.folder)
    every = [*below, *changes]
    reason = _explain_whole(config, every)
    if reason:
        return None, None, reason
    seed = config.batch.seed
    files = list_shards(find_folder(config.model.base_model, config.model.revision or "main"))
    if not files:
        return None, None, f"{config.model.base_model} has no safetensors"
    shards = _open_base(config, files, hardware)
    source = _plain_source(config)
    if isinstance(shards, WidenedShards):
        empty = {name: torch.empty(shape, device="meta") for name, shape in shards.shapes.items()}
        source = replace(source, shapes=empty)
    model = load_skeleton(source, tokenizer, hardware, seed=seed)
    rounding = _build_rounding(config, changes[0].folder, model, hardware)
    start = Start(Rows.of(tokenizer, config.embedding, seed), rounding)
    try:
        plan, reason = prepare_shard_merge(model, shards, every, start, device)
    except CheckpointError:
        if all(_read_settings(change)["peft_type"] == "LORA" for change in every):
            raise
        plan, reason = None, "PEFT puts an adapter of this kind on whole weights only"
    return model, plan, reason


def _open_base(config: Config, files: Sequence[Path], hardware: Hardware) -> Shards:
    """The tensors of the base, whole ones in place of those in few bits."""
    own = load_model_config(config.model)
    method = read_method(own)
    if method not in PARTS:
        return Shards(files)
    dtype = torch.float32
    if config.quantization.ways and config.quantization.merge_base != "original":
        dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    note(f"base: stored in {method.upper()}, widened tensor by tensor")
    rows, columns = own.to_dict()["quantization_config"].get("weight_block_size") or (1, 1)
    return WidenedShards(files, method, (rows, columns), dtype)


def _build_rounding(config: Config, adapter: Path, model: Any, hardware: Hardware) -> Rounding | None:
    section = config.quantization
    if section.merge_base == "original" or section.ways != ("load_in_4bit",):
        return None
    dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    return Rounding(model, section, dtype, choose_rounding_device(adapter, hardware))


def _plain_source(config: Config) -> Source:
    return replace(Source.of(config), quantization=QuantizationSection())


def _explain_whole(config: Config, changes: Sequence[Change]) -> str:
    """Why the whole model has to be in memory; empty if it need not be."""
    if config.adapter.merge_method == "legacy" or config.preference.judges:
        # That head is in no file of the base
        return "a head of scores" if config.preference.judges else "`merge_method: legacy`"
    rounds = config.quantization.ways if config.quantization.merge_base != "original" else ()
    by_tensor = rounds in (("load_in_4bit",), ("model_quantization_config",))
    if rounds and (not by_tensor or config.experts.quantize_moe_experts):
        return f"the base is rounded as for training (`{rounds[0]}`)"
    if find_place(config.model.base_model).gguf_file is not None:
        return "the base is a GGUF file"
    if config.model.reinit_weights or config.model.model_kwargs:
        return "`reinit_weights`" if config.model.reinit_weights else "`model_kwargs`"
    own = load_model_config(config.model)
    if read_method(own) not in ("", *PARTS):
        return f"the base is stored in few bits ({read_method(own)})"
    if "auto_map" in own.to_dict():
        return "the model brings its own code"
    for change in changes:
        settings = _read_settings(change)
        if settings.get("layer_replication"):
            return "`peft_layer_replication` makes a deeper model"
        if (change.folder / ROUNDED).is_file():
            return "LoftQ rounds the base"
    return ""


def _read_settings(change: Change) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((change.folder / SETTINGS).read_text())
    return settings


def _merge_whole(config: Config, changes: Sequence[Change], tokenizer: Any, hardware: Hardware) -> Any:
    base = load_merge_base(config, tokenizer, hardware)
    base.to(choose_device(config.adapter, hardware))
    base = add_frozen_adapters(base, config.adapter)
    for change in changes:
        adapted = load_adapter(base, change.folder)
        scale_(adapted, change.weight)
        base = merge_into(base, adapted)
    return base


def _set_generation_(model: Any, config: Config, adapter: Path) -> None:
    """How the model generates: what training wrote beside the adapter."""
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(adapter))


def write_settings(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """What `save_pretrained` of transformers writes beside the weights."""
    model.config.dtype = dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
