"""Which checkpoint a run goes on from, and whether it is one of this very run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from siredon.config.sections.checkpoint import CheckpointSection
from siredon.errors import CheckpointError
from siredon.log import warn
from siredon.model.adapter_folder import free_of_start_
from siredon.model.relora import RELORA
from siredon.train.trainer import SiredonTrainer

_PREFIX = "checkpoint-"
_STATE = "siredon.json"
#: Where the stream of training rows was, if there is one; in the folder before `siredon.json` is.
STREAM = "stream.json"
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", _STATE)
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on as if it had never stopped.

    Args:
        data: Fingerprint of the prepared data.
        num_ranks: Processes.
        micro_batch_size: Sequences per forward pass.
        gradient_accumulation_steps: Forward passes per step.
        seed: Seed of all random choices.
    """

    data: str
    num_ranks: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    seed: int


class IdentityWriter(TrainerCallback):
    """Writes the identity of the run, and how far it has come, into every checkpoint."""

    def __init__(self, identity: Identity, trainer: SiredonTrainer, resume: Path | None = None) -> None:
        self.identity = identity
        self.trainer = trainer
        self.resume = resume
        self.learning_rate = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Goes on with the log line that the checkpoint fell into."""
        self.learning_rate = args.learning_rate
        facts = json.loads((self.resume / _STATE).read_text()) if self.resume else {}
        if "log" in facts:
            self.trainer.restore_log_(facts["log"])
        if facts.get("learning_rate", args.learning_rate) != args.learning_rate:
            # The peak is a part of the schedule's saved state
            self.learning_rate = facts["learning_rate"]
            warn(
                f"`learning_rate: {args.learning_rate:g}` has no effect: the run goes on with that of its checkpoint, "
                f"{self.learning_rate:g}"
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Adds `siredon.json`, the last file of a checkpoint: where it is missing, the checkpoint is not whole."""
        folder = Path(str(args.output_dir)) / f"{_PREFIX}{state.global_step}"
        log = self.trainer.gather_log()
        if not state.is_world_process_zero or not folder.is_dir():
            return
        facts = {
            "identity": asdict(self.identity),
            "num_tokens": self.trainer.num_tokens_seen,
            "learning_rate": self.learning_rate,
            "log": log,
        }
        beside = folder / f".{_STATE}"
        beside.write_text(json.dumps(facts))
        os.replace(beside, folder / _STATE)


def find_resume_folder(section: CheckpointSection, identity: Identity) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Raises:
        CheckpointError: The checkpoint lacks what resuming needs, or is of a run with other data or batches.
    """
    if section.resume_from_checkpoint:
        folder = Path(section.resume_from_checkpoint).expanduser()
        missing = _missing(folder)
        if missing:
            raise CheckpointError(
                f"resume_from_checkpoint: {folder} is not whole: {missing}",
                "Name a complete `checkpoint-N` folder that siredon wrote (not one of `save_only_model: true`).",
            )
    elif section.auto_resume_from_checkpoints:
        whole = [folder for folder in list_checkpoints(section.output_folder) if not _missing(folder)]
        if not whole:
            return None
        folder = whole[-1]
    else:
        return None
    _check_identity(folder, identity)
    return folder


def count_steps_done(folder: Path) -> int:
    """Optimizer steps that the checkpoint has behind it."""
    return int(json.loads((folder / "trainer_state.json").read_text())["global_step"])


def publish_checkpoint(folder: Path, output_dir: Path) -> None:
    """Copies weights, config and tokenizer of a checkpoint to the output folder, if a run was killed before that.

    Raises:
        CheckpointError: The checkpoint is one of ReLoRA, whose model is more than its files.
    """
    state = {"optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "training_args.bin"}
    state |= {STREAM, _STATE}
    if any((output_dir / name).is_file() for name in _WEIGHTS):
        return
    if (folder / RELORA).is_file():
        raise CheckpointError(
            f"{output_dir} lost the model of a finished run with `relora: true`, which {folder} has in two parts",
            "Go on from the checkpoint before it, by `resume_from_checkpoint`: the last steps write the model again.",
        )
    for path in folder.iterdir():
        if path.is_file() and path.name not in state and not path.name.startswith("rng_state"):
            shutil.copy2(path, output_dir / path.name)
    free_of_start_(output_dir)


def restore_token_count_(trainer: SiredonTrainer, folder: Path) -> None:
    """Lets the trainer count on from where the checkpoint stopped."""
    trainer.num_tokens_seen = int(json.loads((folder / _STATE).read_text())["num_tokens"])


def read_stream_state(folder: Path) -> dict[str, Any]:
    """Where the stream was at a checkpoint.

    Raises:
        CheckpointError: It does not say.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STREAM).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / STREAM} cannot be read: {error}", "Name another checkpoint, or start anew."
        ) from error
    return state


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The `checkpoint-N` folders, by N."""
    numbered = [
        (int(folder.name.removeprefix(_PREFIX)), folder)
        for folder in output_dir.glob(f"{_PREFIX}*")
        if folder.is_dir() and folder.name.removeprefix(_PREFIX).isdigit()
    ]
    return [folder for _, folder in sorted(numbered)]


def _missing(folder: Path) -> str:
    """What a whole checkpoint has and this folder lacks; empty for a whole one."""
    for name in _NEEDED:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name.endswith(".json"):
            try:
                json.loads((folder / name).read_text())
            except ValueError:
                return f"{name} is cut off"
    if not any((folder / name).is_file() for name in _WEIGHTS):
        return "the weights are missing"
    return "" if list(folder.glob("rng_state*.pth")) else "rng_state.pth is missing"


def _check_identity(folder: Path, identity: Identity) -> None:
    there = json.loads((folder / _STATE).read_text())["identity"]
    here = asdict(identity)
    changed = [f"{name}: {there.get(name)} -> {here[name]}" for name in here if there.get(name) != here[name]]
    if changed:
        raise CheckpointError(
            f"{folder} is of a run that differs from this one ({'; '.join(changed)}): "
            "going on would repeat or skip rows",
            "Set these back, or start anew: another `output_dir`, and no `resume_from_checkpoint` or "
            "`auto_resume_from_checkpoints`.",
        )
