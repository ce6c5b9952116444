"""Which checkpoint a run goes on from, and whether it is one of this very run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from siredon.config.schema import Config
from siredon.errors import CheckpointError
from siredon.log import is_main_process, note, warn
from siredon.model.adapter_folder import free_of_start_
from siredon.model.relora import RELORA
from siredon.train.learning_rate import continue_curve_
from siredon.train.publish import (
    MANIFEST,
    RESULT,
    complete_result,
    find_fault,
    is_unlisted,
    list_checkpoints,
    open_draft,
    publish_result,
)
from siredon.train.resume_rules import Identity, compare_runs
from siredon.train.saving import CheckpointPart, Content
from siredon.train.space import explain_disk
from siredon.train.trainer import SiredonTrainer

_STATE = "siredon.json"
#: Weights of a reference that follows the policy, if there is one.
REFERENCE = "reference.safetensors"
#: Where the stream of training rows was, if there is one.
STREAM = "stream.json"
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", _STATE)
_ONLY_STATE = {"optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "training_args.bin"}
_ONLY_STATE |= {STREAM, REFERENCE, _STATE, MANIFEST, "README.md"}
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


class IdentityWriter(CheckpointPart):
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
        # The checkpoint's own state has the rhythm of logging, validating and saving that its run was given
        state.compute_steps(args, state.max_steps)
        self.learning_rate = args.learning_rate
        facts = json.loads((self.resume / _STATE).read_text()) if self.resume else {}
        if facts.get("identity", {}).get("num_steps", 0) not in (0, self.identity.num_steps):
            continue_curve_(self.trainer.lr_scheduler)
        if "log" in facts:
            self.trainer.restore_log_(facts["log"])
        if facts.get("learning_rate", args.learning_rate) != args.learning_rate:
            # The peak is a part of the schedule's saved state
            self.learning_rate = facts["learning_rate"]
            warn(
                f"`learning_rate: {args.learning_rate:g}` has no effect: the run goes on with that of its checkpoint, "
                f"{self.learning_rate:g}"
            )

    def collect(self, args: TrainingArguments, state: TrainerState) -> dict[str, Content]:
        """`siredon.json`, on the first rank; all of them sum up the log."""
        log = self.trainer.gather_log()
        if not state.is_world_process_zero:
            return {}
        facts = {
            "identity": asdict(self.identity),
            "num_tokens": self.trainer.num_tokens_seen,
            "learning_rate": self.learning_rate,
            "log": log,
            # Without its manifest this checkpoint is torn, and not of a Siredon that wrote none
            "manifest": True,
        }
        return {_STATE: json.dumps(facts)}


def find_resume_folder(config: Config, identity: Identity) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Every byte of it is read once, and compared with its manifest; what is passed over is said.

    Raises:
        CheckpointError: The checkpoint lacks what resuming needs, or is of a run that differs in what matters.
    """
    section = config.checkpoint
    if section.resume_from_checkpoint:
        folder = Path(section.resume_from_checkpoint).expanduser()
        # `latest` leads elsewhere as soon as the next checkpoint is there
        folder = folder.resolve() if folder.is_symlink() else folder
        fault = find_flaw(folder)
        if fault:
            raise CheckpointError(
                f"resume_from_checkpoint: {folder} is not whole: {fault}",
                "Name a complete `checkpoint-N` folder that siredon wrote (not one of `save_only_model: true`).",
            )
    elif section.auto_resume_from_checkpoints:
        found = _find_last_whole(section.output_folder)
        if found is None:
            return None
        folder = found
    else:
        return None
    _check_identity(folder, identity, config)
    if is_unlisted(folder):
        warn(
            f"{folder} is of a Siredon that wrote no manifest: whether its bytes are still the same is not known"
        )
    return folder


def _find_last_whole(output: Path) -> Path | None:
    for folder in reversed(list_checkpoints(output)):
        fault = find_flaw(folder)
        if not fault:
            return folder
        warn(f"passed over {folder}: {fault}")
    return None


def find_flaw(folder: Path) -> str:
    """Why no run can go on from a folder; empty if one can.  Reads all of it."""
    if is_unlisted(folder):
        return _missing(folder)
    return find_fault(folder) or _missing(folder) or find_fault(folder, by_hash=True)


def count_steps_done(folder: Path) -> int:
    """Optimizer steps that the checkpoint has behind it."""
    return int(json.loads((folder / "trainer_state.json").read_text())["global_step"])


def publish_checkpoint(folder: Path, output_dir: Path) -> None:
    """Copies weights, config and tokenizer of a checkpoint to the output folder, if a run was killed before that.

    Raises:
        CheckpointError: The checkpoint is one of ReLoRA, whose model is more than its files.
    """
    if not is_main_process() or complete_result(output_dir):
        return
    is_relora = (folder / RELORA).is_file()
    if any((output_dir / name).is_file() for name in _WEIGHTS) and (is_relora or _has_ended(output_dir)):
        return
    if is_relora:
        raise CheckpointError(
            f"{output_dir} lost the model of a finished run with `relora: true`, which {folder} has in two parts",
            "Go on from the checkpoint before it, by `resume_from_checkpoint`: the last steps write the model again.",
        )
    with explain_disk(output_dir):
        draft = open_draft(output_dir / RESULT)
        for path in folder.iterdir():
            if path.is_file() and path.name not in _ONLY_STATE and not path.name.startswith("rng_state"):
                shutil.copy2(path, draft / path.name)
        free_of_start_(draft)
        for name in ("config.json", "generation_config.json"):
            _use_cache_(draft / name)
        publish_result(draft)


def _use_cache_(path: Path) -> None:
    """Training goes without the cache that answers are quick with."""
    if path.is_file():
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({**settings, "use_cache": True}, indent=2, sort_keys=True) + "\n")


def _has_ended(output_dir: Path) -> bool:
    """Whether the run wrote its result; else the weights in the folder are those of a run that was shorter."""
    try:
        return "finished" in json.loads((output_dir / "run.json").read_text())
    except (OSError, ValueError):
        return False


def restore_token_count_(trainer: SiredonTrainer, folder: Path) -> None:
    """Lets the trainer count on from where the checkpoint stopped."""
    trainer.num_tokens_seen = count_tokens_done(folder)


def count_tokens_done(folder: Path) -> int:
    """Tokens that the checkpoint has behind it, padding left out."""
    return int(json.loads((folder / _STATE).read_text())["num_tokens"])


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


def _check_identity(folder: Path, identity: Identity, config: Config) -> None:
    facts = json.loads((folder / _STATE).read_text())
    then = facts["identity"] | ({"peak": facts["learning_rate"]} if "learning_rate" in facts else {})
    found = compare_runs(then, identity, config, count_steps_done(folder))
    refused = [difference for difference in found if difference.verdict == "refused"]
    if refused:
        lines = "".join(f"\n  {difference}" for difference in found)
        raise CheckpointError(
            f"{folder} is of a run that differs from this one, and cannot go on as this one:{lines}",
            "Set back what is refused, or start anew: another `output_dir`, and no `resume_from_checkpoint` or "
            "`auto_resume_from_checkpoints`.",
        )
    for difference in found:
        (warn if difference.verdict == "warned" else note)(f"not as in {folder.name}: {difference}")
