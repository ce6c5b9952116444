"""A checkpoint that many ranks wrote in pieces, as a normal model folder: found, planned, and what goes beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.config.sections.precision import PrecisionSection
from siredon.config.sharded import WEIGHTS as PIECES
from siredon.config.sharded import find_run
from siredon.errors import CheckpointError
from siredon.export.consolidate_plan import Plan, find_settings, plan_adapter, plan_model
from siredon.export.consolidate_wanted import Consolidation
from siredon.export.consolidate_write import Written
from siredon.export.dcp import Checkpoint
from siredon.export.dcp_index import METADATA
from siredon.export.merge import write_settings
from siredon.export.shards import read_dtype
from siredon.hardware import Hardware
from siredon.log import warn
from siredon.model.load import Source, build_skeleton, load_skeleton, set_stop_tokens_
from siredon.model.locate import tuned_model
from siredon.model.precision import FORMATS
from siredon.train.publish import list_checkpoints


def find_checkpoint(config: Config, given: Path | None) -> Checkpoint:
    """The checkpoint that is meant: the one of the end of the run, or else of its last `checkpoint-N`.

    Raises:
        CheckpointError: There is none, or it is no checkpoint in pieces.
    """
    output = config.checkpoint.output_folder
    folder = given or output
    tried = [folder, folder / PIECES]
    tried += [place / PIECES for place in reversed(list_checkpoints(folder))]
    begun = [place for place in tried if list(place.glob("__*.distcp")) or (place / METADATA).exists()]
    whole = next((place for place in begun if (place / METADATA).is_file()), None)
    for place in begun[: begun.index(whole)] if whole else ():
        warn(f"{place} was never finished ({METADATA} is missing): {whole} is taken")
    if begun:
        return Checkpoint(whole or begun[0])  # which says what is missing
    places = [folder, *list_checkpoints(folder)]
    parts = sorted(path.name for place in places for path in place.glob("pytorch_model_fsdp*.bin"))
    if parts:
        raise CheckpointError(
            f"{folder} holds {parts[0]}, and no distributed checkpoint",
            "A file for each rank (`LOCAL_STATE_DICT`) is read by the run alone that wrote it; a single file "
            "(`FULL_STATE_DICT`) is whole. Save with `SHARDED_STATE_DICT`.",
        )
    raise CheckpointError(
        f"{folder} holds no distributed checkpoint: neither {METADATA} nor {PIECES}",
        "Name the folder with the files of the ranks (`__0_0.distcp`) by `--checkpoint`.",
    )


def plan_consolidation(config: Config, checkpoint: Checkpoint, tokenizer: Any, hardware: Hardware) -> Plan:
    """Holds the checkpoint against the model, before anything is written.

    Raises:
        CheckpointError: It is not all there, or of another model.
        ModelError: The model cannot be built.
    """
    model = build_skeleton(Source.of(config), tokenizer, hardware)
    if config.adapter.adapter is None:
        plan = plan_model(model, checkpoint)
    else:
        output = config.checkpoint.output_folder
        given = config.adapter.lora_model_dir
        places = [
            checkpoint.folder,
            find_run(checkpoint.folder),
            *([Path(given).expanduser()] if given else []),
        ]
        plan = plan_adapter(model, config, find_settings(*places, output), checkpoint)
    checkpoint.check(plan.place.values())
    return plan


def choose_dtype(config: Config, wanted: Consolidation) -> torch.dtype | None:
    """The format that is asked for; that of the run if its file says one; None for that of the checkpoint.

    An adapter keeps its format: it was trained in it.

    Raises:
        ModelError: No such format.
    """
    if wanted.dtype is not None or config.adapter.adapter is not None:
        return read_dtype("--dtype", wanted.dtype)
    return _read_format(config.precision)


def _read_format(section: PrecisionSection) -> torch.dtype | None:
    if section.pure:
        return FORMATS[section.pure]
    if section.fp16:
        return torch.float16
    return torch.bfloat16 if section.bf16 is True else None


def write_rest(
    config: Config, plan: Plan, written: Written, tokenizer: Any, stop_ids: tuple[int, ...], folder: Path
) -> None:
    """What a model is beside its weights: settings, how it generates, tokenizer with chat template."""
    base = plan.model.get_base_model() if plan.is_adapter else plan.model
    ends = base.generation_config.eos_token_id
    known = ends if isinstance(ends, list) else [ends]
    set_stop_tokens_(base, tuple(dict.fromkeys(end for end in [*known, *stop_ids] if end is not None)))
    base.generation_config.use_cache = True
    if plan.is_adapter:
        settings = plan.model.peft_config["default"]
        settings.base_model_name_or_path = config.model.base_model
        settings.revision = config.model.revision
        settings.inference_mode = True
        settings.save_pretrained(str(folder))
        base.generation_config.save_pretrained(str(folder))
    else:
        base.config.use_cache = True
        floats = {dtype: count for dtype, count in written.formats.items() if dtype.is_floating_point}
        write_settings(base, folder, max(floats, key=floats.__getitem__))
    tokenizer.save_pretrained(folder)


def check_loads(config: Config, folder: Path, tokenizer: Any, hardware: Hardware) -> None:
    """Makes sure that transformers finds a weight in the folder for each that it looks for.

    Raises:
        ModelError: One is missing.
    """
    source = Source.of(config).of_output(tuned_model(config.model_to_load, folder))
    load_skeleton(source, tokenizer, hardware, seed=0)
