"""Bad steps: seen at the step, kept from the weights, and followed as `on_bad_step` says.

On a CPU, and with fp16, whose loss scaling asks the device anyway, a step is judged before its update.  On a GPU
nothing waits for the verdict: it stays on the device, keeps a fused Adam from its update there, and is read at the
next step or log line together with what is read anyway.  Other optimizers on a GPU have made their update when the
verdict is read, unless the policy is `skip`, which then waits for it.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from siredon.config.schema import Config
from siredon.config.sections.bad_steps import BadStepSection, Policy
from siredon.distributed.ranks import largest_of_ranks
from siredon.errors import TrainingError
from siredon.log import is_main_process, warn
from siredon.train.bad_steps import GRADIENT, Judge, describe_code
from siredon.train.checkpoint import count_steps_done, find_flaw
from siredon.train.guarded import StepGuard
from siredon.train.offending import Offence, write_rows
from siredon.train.publish import PREFIX
from siredon.train.rollback import (
    FOLDER,
    Rewind,
    RolledBack,
    Window,
    drop_later,
    parse_windows,
    read_windows,
    write_windows,
)
from siredon.train.trainer import SiredonTrainer

_NAME = "BadStep"
#: Steps in a row that loss scaling may skip: so many halvings lead from the largest scale to none.
_MOST_OVERFLOWS = 40


@dataclass(frozen=True)
class GuardPlan:
    """What follows a bad step.

    Args:
        policy: `on_bad_step`.
        section: Its settings.
        output: `output_dir`.
        sources: Names of the data sets, by number.
    """

    policy: Policy
    section: BadStepSection
    output: Path
    sources: tuple[str, ...]


class BadStep(StepGuard, ExportableState):
    """Judges every optimizer step.

    What it remembers is a part of every checkpoint: skipped steps, the recent good ones, what is passed over.

    Args:
        trainer: Whose steps they are.
        plan: What follows a bad one.
        resume: The checkpoint from which the run goes on.
        rewind: What this call has passed over so far.
    """

    def __init__(self, trainer: SiredonTrainer, plan: GuardPlan, resume: Path | None, rewind: Rewind) -> None:
        device = trainer.args.device
        self.trainer = trainer
        self.plan = plan
        self.resume = resume
        self.judge = Judge(plan.section, device)
        self.code = torch.zeros((), dtype=torch.long, device=device)
        #: The same, where the device was asked for it before the update.
        self._known: int | None = None
        self.num_skipped = 0
        self.num_overflows = 0
        self.num_resumed = 0
        self.windows = rewind.windows
        if resume is not None and resume.parent.resolve() == plan.output.resolve():
            # Written after the checkpoint, by a run that was killed since
            self.windows = _unite(self.windows, read_windows(plan.output))
        self.saved: list[int] = []
        self._unlogged = torch.zeros((), dtype=torch.long, device=device)
        self._blocking = ExitStack()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        attributes = {
            "num_skipped": self.num_skipped,
            "num_overflows": self.num_overflows,
            "num_unlogged": int(self._unlogged),
            "recent": self.judge.recent.tolist() if self.judge.looks_for_spikes else [],
            "windows": [asdict(window) for window in self.windows],
        }
        return {"args": {}, "attributes": attributes}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Goes on from what a checkpoint remembers."""
        kept = state.stateful_callbacks.setdefault(_NAME, self.state())["attributes"]
        self.num_skipped, self.num_overflows = kept["num_skipped"], kept["num_overflows"]
        self._unlogged.fill_(kept["num_unlogged"])
        self.windows = _unite(self.windows, parse_windows(kept["windows"]))
        self.num_resumed = state.global_step
        if kept["recent"]:
            self.judge.restore_(kept["recent"])
        if self.windows:
            write_windows(self.plan.output, self.windows)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Judges the step, and keeps a bad one from the weights."""
        if self.trainer.passes_over:
            self._unlogged += 1
            self._block()
            return
        if self.plan.policy == "ignore":
            return
        code = self.judge.judge_(self.trainer.measure_step_loss(), self.trainer.grad_norm)
        if self._asks_at_once:
            self._known = self._excuse_overflow(int(code))
            code.fill_(self._known)
            if self._known:
                self._block()
        else:
            self._block_on_device(code)
        self.code.copy_(code)
        if self.plan.policy == "skip":
            self.trainer.forget_loss_(code != 0)
            self._unlogged += code != 0

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Lets the optimizer go on."""
        self._blocking.close()
        if state.global_step == 0 and (self.trainer.passes_over or self._asks_at_once):
            # PyTorch takes a schedule that moves on before the first update for a mistake
            self._blocking.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler\.step\(\)`")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The schedule has moved on."""
        self._blocking.close()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Remembers where a rollback can lead."""
        self.saved.append(state.global_step)

    def is_passed_over(self, step: int) -> bool:
        """Whether a rollback has taken the step out."""
        return any(window.first <= step <= window.last for window in self.windows)

    def begin_step_(self, code: int) -> None:
        """Follows the last step, if nobody has looked at it yet."""
        self.code.zero_()
        self._follow(code)

    def end_step_(self) -> None:
        """Follows the step that was just made, where something comes next that waits for the device anyway."""
        control = self.trainer.control
        is_due = control.should_log or control.should_evaluate or control.should_save
        if self._known is not None or is_due or control.should_training_stop:
            code = int(self.code) if self._known is None else self._known
            self._known = None
            self.code.zero_()
            self._follow(code)

    def count_unlogged_(self) -> int:
        """Steps since the last log line whose loss is not in it; from now on none."""
        found = int(self._unlogged)
        self._unlogged.zero_()
        return found

    @property
    def _asks_at_once(self) -> bool:
        """Whether the verdict is read before the update."""
        trainer = self.trainer
        is_free = trainer.args.device.type == "cpu" or trainer.accelerator.scaler is not None
        return is_free or (self.plan.policy == "skip" and self._find_fused() is None)

    def _find_fused(self) -> Any:
        """The optimizer, if it is one that skips a step by itself, on the device."""
        optimizer: Any = self.trainer.optimizer
        inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        # Others say that they can, as a fused SGD, and begin their momentum with what was in memory
        is_fused = isinstance(inner, torch.optim.Adam) and vars(inner).get("_step_supports_amp_scaling")
        return inner if is_fused else None

    def _block(self) -> None:
        """Keeps the optimizer from its update: nothing of it moves, no moment and no weight decay."""
        accelerator = self.trainer.accelerator
        if accelerator.scaler is not None and not self.trainer.passes_over:
            if not bool(self.trainer.grad_norm.isfinite()):
                return  # The scaler skips the step, and lowers its scale
            accelerator.scaler.update()
        gradients = accelerator.gradient_state
        gradients._set_sync_gradients(False)
        self._blocking.callback(gradients._set_sync_gradients, True)

    def _block_on_device(self, code: torch.Tensor) -> None:
        """The same, where the verdict is only known to the device: as loss scaling tells a fused optimizer."""
        fused = self._find_fused()
        if fused is None:
            return
        fused.found_inf, fused.grad_scale = (code != 0).float(), None
        self._blocking.callback(_forget, fused)

    def _excuse_overflow(self, code: int) -> int:
        """With loss scaling, a gradient that overflows is a matter of the scale, unless that does not help."""
        if self.trainer.accelerator.scaler is None or code != GRADIENT:
            self.num_overflows = 0
            return code
        self.num_overflows += 1
        return code if self.num_overflows > _MOST_OVERFLOWS else 0

    def _follow(self, code: int) -> None:
        """Does what the policy says.

        Raises:
            TrainingError: The run ends here.
            RolledBack: It begins again.
        """
        if not code:
            return
        trainer = self.trainer
        loss, norm = float(trainer.measure_step_loss()), float(trainer.grad_norm)
        offence = Offence(trainer.state.global_step, describe_code(code), loss, norm)
        path = write_rows(trainer, offence, self.plan.output / FOLDER, self.plan.sources)
        what = f"step {offence.step:,} is bad: {offence.why} (loss {loss:.4g}, gradient {norm:.4g})"
        if self.plan.policy == "stop":
            raise TrainingError(
                f"{what}; its rows are in {path}",
                "Look at the rows; lower `learning_rate`, or write `on_bad_step: skip` or `on_bad_step: rollback`.",
            )
        warn(f"{what}; its rows are in {path}")
        if self.plan.policy == "skip":
            self.num_skipped += 1
            self._check_limit(self.num_skipped, what)
            return
        self._check_limit(len(self.windows) + 1, what)
        self._roll_back(offence)

    def _check_limit(self, count: int, what: str) -> None:
        limit = self.plan.section.bad_step_limit
        if count > limit:
            raise TrainingError(
                f"{what}, and `bad_step_limit: {limit}` is used up",
                f"Look at the rows in {self.plan.output / FOLDER}; lower `learning_rate`, or raise the limit.",
            )

    def _roll_back(self, offence: Offence) -> None:
        """Begins again from the last checkpoint before the window.

        Raises:
            TrainingError: The checkpoint from which the run went on is not there any more.
            RolledBack: Always else.
        """
        self.trainer.finish_saving()
        step, output = offence.step, self.plan.output
        back_to = self._choose_checkpoint(step)
        first = max(step - self.plan.section.bad_step_window + 1, back_to + 1)
        folder: Path | None = output / f"{PREFIX}{back_to}" if back_to else None
        if self.resume is not None and back_to == self.num_resumed:
            folder = self.resume
        windows = (*self.windows, Window(first, step, back_to, offence.why))
        if is_main_process():
            # Before the list is written: a run that is killed here goes on from `folder`, and meets the step again
            drop_later(output, [number for number in self.saved if number > back_to], folder)
        write_windows(output, windows)
        self.trainer.accelerator.wait_for_everyone()
        passed = f"step {step}" if first == step else f"steps {first} to {step}"
        warn(f"rolled back to {folder or 'the start'}; {passed} will be passed over")
        raise RolledBack(Rewind(True, folder, windows))

    def _choose_checkpoint(self, step: int) -> int:
        """The step to go back to, the same on all ranks; 0 is the start.

        The last whole checkpoint before the window, or if there is none, the first one before the bad step.

        Raises:
            TrainingError: There is none, and the run did not begin at its start.
        """
        chosen = -1
        if is_main_process():
            places = {number: self.plan.output / f"{PREFIX}{number}" for number in self.saved}
            if self.resume is not None:
                places[count_steps_done(self.resume)] = self.resume
            whole = sorted(
                number for number, place in places.items() if number < step and not find_flaw(place)
            )
            if self.resume is None:
                whole = [0, *whole]
            wanted = [number for number in whole if number <= step - self.plan.section.bad_step_window]
            chosen = wanted[-1] if wanted else (whole[0] if whole else -1)
        chosen = largest_of_ranks(chosen, self.trainer.args.device)
        if chosen < 0:
            raise TrainingError(
                f"step {step:,} is bad, and {self.resume}, from which the run went on, is not whole any more",
                "Start anew, or name an earlier checkpoint in `resume_from_checkpoint`.",
            )
        return chosen


def guard_steps_(
    trainer: SiredonTrainer, config: Config, sources: tuple[str, ...], resume: Path | None, rewind: Rewind
) -> None:
    """Lets a trainer's steps be judged, and what a rollback has passed over be passed over."""
    plan = GuardPlan(config.bad_step_policy, config.bad_steps, config.checkpoint.output_folder, sources)
    trainer.guard = BadStep(trainer, plan, resume, rewind)
    trainer.add_callback(trainer.guard)


def _forget(fused: Any) -> None:
    del fused.found_inf, fused.grad_scale


def _unite(some: tuple[Window, ...], more: tuple[Window, ...]) -> tuple[Window, ...]:
    """Windows of both, each once, in the order of steps."""
    return tuple(sorted({*some, *more}, key=lambda window: (window.last, window.first)))
