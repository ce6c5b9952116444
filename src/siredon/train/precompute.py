"""What the reference model thinks of all answers, computed once and kept with the prepared data."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from siredon.config.schema import Config
from siredon.data.cache import REFERENCE, cache_key
from siredon.data.collate import PackDataset
from siredon.data.table import JoinedTable, References
from siredon.distributed.ranks import rank
from siredon.hardware import Hardware, release_memory
from siredon.log import note
from siredon.model.precision import Precision
from siredon.train.callbacks.reference import ReferenceSync, read_reference_
from siredon.train.facts import describe_versions
from siredon.train.fingerprint import ABSENT, fingerprint_reference, fingerprint_weights
from siredon.train.pair_trainer import PairTrainer
from siredon.train.reference import Reference, choose_reference, copy_start, load_reference
from siredon.train.step_scores import score_table

#: Sections that decide what the model is before it is trained, and how it computes.
_SECTIONS = (
    *("model", "placement", "tokenizer", "adapter", "freezing", "quantization", "experts", "precision"),
    *("attention", "kernels", "liger", "compile"),
)


def give_reference_(
    trainer: PairTrainer, config: Config, precision: Precision, hardware: Hardware, resume: Path | None
) -> None:
    """Lets a trainer compare with the policy at its start, or with the model that the config names, live or ahead.

    A checkpoint is loaded later: the model is still as it starts.  Only a reference that follows the policy is where
    the checkpoint `resume` has it.
    """
    sync = config.online.reference_sync
    if sync is not None:
        moving = copy_start(trainer)
        if resume:
            read_reference_(moving, resume)
        trainer.add_callback(ReferenceSync(moving, sync.ref_model_mixup_alpha, sync.ref_model_sync_steps))
        trainer.reference = moving
    elif config.preference.precompute_ref_log_probs:
        take_reference_(trainer, config, precision, hardware)
    else:
        trainer.reference = (
            load_reference(trainer, config, precision, hardware)
            if config.reference.is_chosen
            else choose_reference(trainer)
        )


def take_reference_(trainer: PairTrainer, config: Config, precision: Precision, hardware: Hardware) -> None:
    """Lets the data of a trainer say what the reference model thinks of each sample.

    It is the trainer's model as it is now, or the one that the config names, which is read only if it has to be asked,
    and let go afterwards.
    """

    @cache
    def find() -> Reference | None:
        named = config.reference.is_chosen
        return load_reference(trainer, config, precision, hardware) if named else None

    if ABSENT in fingerprint_reference(config.reference_to_load, config.reference).values():
        find()  # Fetches it: then it can be told from others
    made = _describe(config, precision, hardware)
    root = Path(config.data.dataset_prepared_path).expanduser()
    train: Any = trainer.train_dataset
    validation: Any = trainer.eval_dataset
    trainer.train_dataset = _extend(trainer, train, made, root, find)
    if validation is not None:
        trainer.eval_dataset = _extend(trainer, validation, made, root, find)
    find.cache_clear()
    release_memory(hardware)


def _describe(config: Config, precision: Precision, hardware: Hardware) -> dict[str, Any]:
    """Everything but the samples on which log-probabilities depend."""
    named = fingerprint_reference(config.reference_to_load, config.reference)
    second = config.reference.has_second_model
    # A second model has nothing of the policy: not its adapter, nor what of it is trained
    left_out = {"adapter", "freezing"} if second and len(named) == 1 else set()
    return {
        "sections": config.model_dump(mode="json", include=set(_SECTIONS) - left_out),
        "weights": {} if second else fingerprint_weights(config.model, config.adapter),
        **({"named": named, "revision": config.reference.reference_revision} if named else {}),
        "seed": config.batch.seed,  # of weights that are drawn
        "formats": precision.describe(),
        "device": hardware.describe(),
        "versions": describe_versions(),
    }


def _extend(
    trainer: PairTrainer,
    dataset: PackDataset,
    made: dict[str, Any],
    root: Path,
    find: Callable[[], Reference | None],
) -> PackDataset:
    table = dataset.table
    assert isinstance(table, JoinedTable)
    path = root / cache_key({"reference": made, "samples": table.fingerprint()}) / REFERENCE
    found = _read(path, table)
    if found is None:
        note(f"reference: computing log-probabilities of {len(table):,} {table.unit}")
        reference = find()
        with nullcontext() if reference is None else reference.standing_in():
            found = score_table(trainer, table, trainer.model if reference is None else reference.model)
        if rank() == 0:
            _write(path, found)
        trainer.accelerator.wait_for_everyone()
    else:
        note(f"reference: log-probabilities of {len(table):,} {table.unit} (computed before)")
    extended = copy.copy(dataset)
    extended.table = replace(table, reference=found)
    return extended


def _read(path: Path, table: JoinedTable) -> References | None:
    """What was kept; None if there is none, or it is damaged."""
    try:
        found: References = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    fits = found.shape == (table.sample_lengths.size,) and found.dtype == np.float32
    return found if fits and np.isfinite(found).all() else None


def _write(path: Path, found: References) -> None:
    """Whole or not at all: beside its place, and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}.npy")
    np.save(beside, found)
    os.replace(beside, path)
