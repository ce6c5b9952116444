"""`Trainer` of transformers with checkpoints that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from siredon.errors import CheckpointError
from siredon.hardware import read_available_bytes
from siredon.log import warn
from siredon.train.publish import (
    BEST,
    LATEST,
    PREFIX,
    discard,
    drop_oldest,
    name_draft,
    open_draft,
    point,
    publish,
)
from siredon.train.restore import explain_state
from siredon.train.snapshot import ROUNDING, Worker, collect_weights, copy_to_ram, count_bytes
from siredon.train.space import explain_disk, show_bytes

#: What a file is made of: text, or tensors by name.
Content = str | dict[str, torch.Tensor]


class CheckpointPart(TrainerCallback):
    """A callback that has files of its own in every checkpoint."""

    def collect(self, args: TrainingArguments, state: TrainerState) -> Mapping[str, Content]:
        """Its files, by name; asked of all ranks, and written by the first."""
        return {}

    def before_publishing(self, trainer: Trainer) -> None:
        """What must be on the disk before the checkpoint is, on the first rank."""


@dataclass(frozen=True)
class SavingPlan:
    """How checkpoints are written.

    Args:
        limit: How many are kept; None for all.
        in_background: They are written by a thread, while training goes on.
        on_published: Told of each one, on the first rank, once it is in its place; returns at once.
    """

    limit: int | None = None
    in_background: bool = False
    on_published: Callable[[Path], None] | None = None


class SavingTrainer(Trainer):
    """Writes checkpoints beside their place, and publishes each by one rename.

    All that a checkpoint holds, the files of `CheckpointPart` too, is there when it is published.

    Args:
        options: What `transformers.Trainer` takes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.saving = SavingPlan()
        #: The last step of which this run has a checkpoint, or is about to.
        self.saved_step: int | None = None
        self._worker = Worker()

    def train(self, *args: Any, **options: Any) -> Any:
        """Trains, and waits for the last checkpoint.

        Raises:
            CheckpointError: A checkpoint could not be written.
        """
        try:
            done = super().train(*args, **options)
        finally:
            self._worker.wait()
        self._worker.check()
        return done

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass, if the checkpoint before could be written."""
        self._worker.check()
        loss: torch.Tensor = super().training_step(*args, **options)
        return loss

    def finish_saving(self) -> None:
        """Waits for a checkpoint that is being written.

        Raises:
            CheckpointError: It could not be.
        """
        self._worker.finish()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        # PEFT writes a card that knows nothing of the run, and names folders of this machine
        (Path(output_dir or str(self.args.output_dir)) / "README.md").unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with explain_state(resume_from_checkpoint, "*.bin", "*.safetensors"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with explain_state(checkpoint, "optimizer.pt", "scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with explain_state(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_state(checkpoint, "rng_state*.pth"):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The checkpoint of this step, on all ranks."""
        self.finish_saving()
        self.store_flos()
        place = Path(str(self.args.output_dir)) / f"{PREFIX}{self.state.global_step}"
        draft = name_draft(place)
        self._name_best(place)
        files = self._collect_files()
        snapshot = self._take_snapshot(files) if self.saving.in_background else None
        is_first = self.args.should_save
        with self._all_or_none(place):
            if is_first:
                open_draft(place)
        with self._all_or_none(place):
            if is_first:
                self._write_own(draft)
            if not self.args.save_only_model:
                self._save_rng_state(str(draft))
            if snapshot is None:
                self._write_state(draft, files)
        if snapshot is not None:
            self._worker.start(partial(self._write_snapshot, draft, place, snapshot))
        else:
            with self._all_or_none(place):
                if is_first:
                    self._publish(draft, place)
        self.saved_step = self.state.global_step

    def save_alone(self, place: Path, random_states: Sequence[bytes]) -> None:
        """The checkpoint of this step, where only the first rank can write: no other one is asked for anything.

        Args:
            place: Its folder.
            random_states: `rng_state_N.pth` of each rank.

        Raises:
            CheckpointError: It could not be written.
        """
        self._name_best(place)
        files = self._collect_files()
        try:
            with explain_disk(place):
                draft = open_draft(place)
                self._write_own(draft)
                for number, content in enumerate(random_states):
                    (draft / f"rng_state_{number}.pth").write_bytes(content)
                self._write_state(draft, files)
                self._publish(draft, place)
        except CheckpointError:
            discard(name_draft(place))
            raise

    def _list_parts(self) -> list[CheckpointPart]:
        return [part for part in self.callback_handler.callbacks if isinstance(part, CheckpointPart)]

    def _collect_files(self) -> dict[str, Content]:
        files: dict[str, Content] = {}
        for part in self._list_parts():
            files |= part.collect(self.args, self.state)
        return files

    def _write_own(self, draft: Path) -> None:
        """What only the first rank writes, besides weights and state."""
        self._keep_callback_states()
        self.state.save_to_json(str(draft / "trainer_state.json"))
        for part in self._list_parts():
            part.before_publishing(self)

    def _name_best(self, place: Path) -> None:
        """Lets the state say which checkpoint is the best, by its place and not by where it is written."""
        step = self.state.best_global_step
        if step and self.args.save_strategy != "no":
            best = place.with_name(f"{PREFIX}{step}")
            if best == place or best.is_dir():
                self.state.best_model_checkpoint = str(best)

    def _keep_callback_states(self) -> None:
        """Puts what callbacks and the control remember into the state, in the way that `Trainer` reads it."""
        kept: dict[str, list[Any]] = {}
        for part in (*self.callback_handler.callbacks, self.control):
            if isinstance(part, ExportableState):
                kept.setdefault(type(part).__name__, []).append(part.state())
        self.state.stateful_callbacks |= {
            name: found if len(found) > 1 else found[0] for name, found in kept.items()
        }

    def _write_state(self, draft: Path, files: Mapping[str, Content]) -> None:
        """Weights, optimizer and schedule, from where they are."""
        self.save_model(str(draft), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(draft))
            self._save_scaler(str(draft))
        if self.args.should_save:
            write_files(draft, files)

    def _take_snapshot(self, files: Mapping[str, Content]) -> dict[str, Any] | None:
        """The same in RAM, on the first rank; None where it does not fit, or cannot be told from the model."""
        self._use_averages()
        found: dict[str, Any] = {"files": files, "weights": {}, "states": {}}
        if not self._agree(not self.args.should_save or self._collect_(found)):
            return None
        copied: dict[str, Any] = copy_to_ram(found)
        return copied

    def _collect_(self, found: dict[str, Any]) -> bool:
        """Puts in what is to be copied, and says whether it can be."""
        name = f"{PREFIX}{self.state.global_step}"
        weights = collect_weights(self.model)
        if weights is None:
            warn(
                f"{name} is written while training waits: this kind of adapter makes its tensors as it is saved"
            )
            return False
        found["weights"] = weights
        if not self.args.save_only_model:
            found["states"] = {
                "optimizer.pt": self.optimizer.state_dict(),
                "scheduler.pt": self.lr_scheduler.state_dict(),
            }
            if self.accelerator.scaler is not None:
                found["states"]["scaler.pt"] = self.accelerator.scaler.state_dict()
        needed, there = count_bytes(found) * ROUNDING, read_available_bytes()
        if needed > there:
            warn(
                f"{name} is written while training waits: its copy may take {show_bytes(int(needed))} of RAM, and "
                f"{show_bytes(there)} are free"
            )
        return needed <= there

    def _write_snapshot(self, draft: Path, place: Path, snapshot: dict[str, Any]) -> None:
        """Writes and publishes, in the thread of the worker; the other ranks have nothing left to write."""
        if not self.args.should_save:
            return
        try:
            with explain_disk(place):
                # `Trainer._save` writes what it is given; the model is asked only for its settings
                self._save(str(draft), state_dict=snapshot["weights"])
                for name, state in snapshot["states"].items():
                    torch.save(state, draft / name)
                write_files(draft, snapshot["files"])
                self._publish(draft, place)
        except CheckpointError:
            discard(draft)
            raise

    def _publish(self, draft: Path, place: Path) -> None:
        """Publishes, turns the links to it, and only then drops older ones."""
        publish(draft, place)
        if self.saving.on_published is not None:
            self.saving.on_published(place)
        best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None
        point(place.parent, LATEST, place)
        if best is not None and best.parent == place.parent and best.is_dir():
            point(place.parent, BEST, best)
        drop_oldest(place.parent, self.saving.limit, int(place.name.removeprefix(PREFIX)), best)

    @contextmanager
    def _all_or_none(self, place: Path) -> Iterator[None]:
        """Ends a save on all ranks where one cannot write, and leaves nothing of it.

        Raises:
            CheckpointError: This rank could not write, or another one.
        """
        failure: CheckpointError | None = None
        try:
            with explain_disk(place):
                yield
        except CheckpointError as error:
            failure = error
        if self._agree(failure is None):
            return
        if self.args.should_save:
            discard(name_draft(place))
        raise failure or CheckpointError(f"{place} could not be written by another rank", "See what it says.")

    def _agree(self, mine: bool) -> bool:
        """Whether all ranks say yes; all must have come here."""
        if self.args.world_size == 1:
            return mine
        votes = torch.tensor(float(mine), device=self.args.device)
        agreed = float(self.accelerator.reduce(votes, reduction="sum"))
        return agreed == float(self.args.world_size)

    def _use_averages(self) -> None:
        """Gives the model the weights that are to be written, where they are others than those that are trained."""


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """Writes texts, and tensors as safetensors."""
    for name, content in files.items():
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            save_file({key: value.contiguous() for key, value in content.items()}, folder / name)
