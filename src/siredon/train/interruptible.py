"""`Trainer` of transformers with a run that can end before its time, and a validation that can be cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siredon.errors import Interrupted
from siredon.train.callbacks.interrupter import Interrupter
from siredon.train.callbacks.stall import StallWatch
from siredon.train.interrupt import Interruption
from siredon.train.saving import SavingTrainer


class InterruptibleTrainer(SavingTrainer):
    """Ends where `callbacks/interrupter.py` says, and begins with the validation that was cut.

    It ends by an exception, and not by `should_training_stop`: what `Trainer` does after a run would load the best
    weights, and with `save_total_limit: 1` drop the checkpoint that was just written.

    Args:
        options: What `transformers.Trainer` takes.
    """

    control: Any

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: Ends the run where it is asked to.
        self.interrupter: Interrupter | None = None
        #: Ends the process where nothing is finished any more.
        self.stall: StallWatch | None = None

    def listen_to_(self, interruption: Interruption, resume: Path | None) -> None:
        """Lets the run end where it is asked to; to be called once all callbacks are there.

        Args:
            interruption: What asks.
            resume: The checkpoint from which the run goes on.
        """
        self.interrupter = Interrupter(interruption, partial(self._make_due_evaluation, resume))
        self.add_callback(self.interrupter)

    def is_asked_to_end(self) -> bool:
        """Whether this rank knows of a signal, or of the end of its time."""
        return self.interrupter is not None and self.interrupter.interruption.find_code() != 0

    def check_evaluation(self) -> None:
        """Ends a validation whose run is to end; to be asked by all ranks.

        Raises:
            Interrupted: It is.
        """
        if self.stall is not None:
            self.stall.beat(busy=True)
        if self.interrupter is not None:
            self.interrupter.check_evaluation(self.args)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        # A validation made up for may have ended the run: `Trainer` would make a step more.
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **options)

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        interrupter = self.interrupter
        if interrupter is None:
            super()._maybe_log_save_evaluate(*args, **options)
            return
        try:
            super()._maybe_log_save_evaluate(*args, **options)
        except Interrupted as cut:
            self._forget_validation_()
            self.control.should_evaluate = True
            interrupter.stop_(self.args, self.state, self.control, cut.by)
            if self.control.should_save:
                self._save_checkpoint(self.model_wrapped, None)
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        if interrupter.can_leave(self.args, self.state, self.control):
            self.finish_saving()
            self.accelerator.wait_for_everyone()
            step = self.state.global_step
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
            raise Interrupted(interrupter.by, step, str(folder)) from None

    def _forget_validation_(self) -> None:
        """Takes a validation out of the log that was cut after its loss was known."""
        history = self.state.log_history
        while history and history[-1]["step"] == self.state.global_step and "eval_loss" in history[-1]:
            history.pop()

    def _make_due_evaluation(self, resume: Path | None) -> None:
        """The validation that was cut, and the checkpoint after it if there was to be one."""
        assert self.interrupter is not None
        assert resume is not None
        control = self.control
        control.should_log, control.should_evaluate = False, True
        control.should_save = self.interrupter.due_save
        control.should_training_stop = self.state.global_step >= self.state.max_steps
        self.interrupter.due_save = False
        with self.random_state_kept():
            # The one that a checkpoint of this step has: validating leaves it alone
            self._load_rng_state(str(resume))
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model_wrapped, None, 0, None, None)

    @contextmanager
    def random_state_kept(self) -> Iterator[None]:
        """Random numbers drawn inside are drawn again after it."""
        devices = [] if self.args.device.type == "cpu" else [self.args.device]
        plain, array = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=devices, device_type=self.args.device.type):
            yield
        random.setstate(plain)
        np.random.set_state(array)
