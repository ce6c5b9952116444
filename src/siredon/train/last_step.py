"""The last step of a run on several ranks, saved when memory runs out on one of them.

The others are then in the sum of gradients over ranks, and stay there.  Nothing is asked of them that needs their main
thread: a thread of each rank looks at a board, and finds weights, optimizer and counts as they were at the end of the
last step, as long as the main thread is inside of a pass.  What happens, in words on the board:

    failed      by the first rank whose memory ran out: its number, and the step that is to be saved
    share-N     by each rank N: its random numbers and sums, or why it has none to give
    outcome     by rank 0, which has written and published the checkpoint, or has not
    explained   by the rank that failed, when it ends; the others end with it
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import TensorBoardCallback

from siredon.distributed.board import Board
from siredon.distributed.ranks import num_ranks, rank
from siredon.errors import SiredonError
from siredon.hardware import beside_compute
from siredon.log import warn
from siredon.redaction import redact
from siredon.train.callbacks.progress import Progress
from siredon.train.memory_guard import Mark, Saved
from siredon.train.trainer import SiredonTrainer

#: Exit status of a rank that ends with the one whose memory ran out; it is the same.
STATUS = 1

_SECONDS_BETWEEN_LOOKS = 1.0
#: In which a main thread comes to its next pass, if it is not past that step.
_SECONDS_FOR_PASS = 40.0
#: In which every rank has given its share.
_SECONDS_FOR_SHARES = 60.0
#: In which the first rank has written all; less than ranks wait in a sum, which is half an hour.
_SECONDS_TO_WRITE = 1200.0
#: In which the rank that failed has tried what would fit.
_SECONDS_TO_EXPLAIN = 300.0
#: In which it ends first: the launcher names the rank that did.
_SECONDS_FOR_FIRST = 5.0


class LastStepWatch:
    """Saves the last step of a run on several ranks; see above.

    The main thread holds a lock but while it is inside of a pass, and whoever saves has it: nothing of a step is
    written that goes on meanwhile.  Every wait has an end, after which the run ends as if there were no watch.

    Args:
        trainer: The run's, on this rank.
    """

    def __init__(self, trainer: SiredonTrainer) -> None:
        self.trainer = trainer
        self._board: Board | None = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look; to be called by the main thread."""
        self._lock.acquire()
        try:
            self._board = Board("last-step")
        except RuntimeError as error:
            warn(f"when memory runs out on one rank, no last step will be saved: {error}")
            return
        self._closed.clear()
        self._thread = threading.Thread(target=self._watch, name="last-step", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; to be called by the main thread, outside of a pass."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._lock.release()

    @contextmanager
    def may_save(self) -> Iterator[None]:
        """The pass of a step.  If the watch has begun to save meanwhile, the main thread does not come out of it."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    @contextmanager
    def may_not_save(self) -> Iterator[None]:
        """A time within a pass in which the model is not what a checkpoint has, or any time outside of one."""
        with self._lock:
            yield

    def save(self, step: int) -> Saved:
        """Saves the last step, on the rank that failed; to be called after `stop`, by its main thread.

        Args:
            step: The last step that was finished.
        """
        if self._board is None:
            return Saved()
        try:
            failed = {"rank": rank(), "step": step}
            self._board.write_first("failed", json.dumps(failed))
            return self._save(self._board, step)
        except RuntimeError as error:
            return Saved(reason=_put_in_a_line(error))

    def explain(self) -> None:
        """Lets the others end, on the rank that failed."""
        if self._board is None:
            return
        try:
            self._board.write("explained", str(rank()))
        except RuntimeError as error:
            warn(f"the other ranks could not be told: {error}")

    def _watch(self) -> None:
        assert self._board is not None
        try:
            while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
                failed = self._board.read("failed")
                if failed is not None:
                    self._follow(self._board, json.loads(failed))
                    return
        except RuntimeError as error:
            if not self._closed.is_set():
                warn(f"the other ranks cannot be heard any more: {error}")

    def _follow(self, board: Board, failed: dict[str, int]) -> None:
        """Gives this rank's share, and ends the process with the one that failed."""
        if not self._take_lock():
            if not self._closed.is_set():
                reason = f"rank {rank()} was past that step already"
                board.write(f"share-{rank()}", json.dumps({"reason": reason}))
                # Of the first rank nobody else would hear
                board.write_first("outcome", json.dumps({"folder": "", "reason": reason}))
            return
        # From here on the main thread stays where it is
        try:
            if self.trainer.stall is not None:
                self.trainer.stall.beat(busy=True)
            saved = self._save(board, failed["step"])
            board.wait("explained", _SECONDS_TO_EXPLAIN)
        except RuntimeError as error:
            saved = Saved(reason=_put_in_a_line(error))
        self._end(failed, saved)

    def _take_lock(self) -> bool:
        """Whether the main thread is inside of a pass, or comes there in time."""
        deadline = time.monotonic() + _SECONDS_FOR_PASS
        while time.monotonic() < deadline and not self._closed.is_set():
            if self._lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
                return True
        return False

    def _save(self, board: Board, step: int) -> Saved:
        """Gives the share of this rank; writes the checkpoint on the first rank, and waits for it on the others."""
        mark = self.trainer.mark
        with beside_compute(self.trainer.args.device):
            if mark is None or mark.step != step:
                done = "no step" if mark is None else f"step {mark.step:,}"
                share = {"reason": f"rank {rank()} has finished {done}"}
            else:
                share = _describe_share(mark)
            board.write(f"share-{rank()}", json.dumps(share))
            if rank() == 0:
                saved = self._try_to_write(board, mark)
                told = {"folder": str(saved.folder) if saved.folder else "", "reason": saved.reason}
                board.write("outcome", json.dumps(told))
                return saved
        outcome = board.wait("outcome", _SECONDS_FOR_SHARES + _SECONDS_TO_WRITE)
        if outcome is None:
            return Saved(reason="rank 0 has not answered in time")
        facts = json.loads(outcome)
        return Saved(Path(facts["folder"]) if facts["folder"] else None, facts["reason"])

    def _try_to_write(self, board: Board, mark: Mark | None) -> Saved:
        try:
            shares = _read_shares(board)
            refusal = next((str(share["reason"]) for share in shares if "reason" in share), "")
            if refusal or mark is None:
                return Saved(reason=refusal)
            return Saved(self._write(mark, shares))
        except Exception as error:  # noqa: BLE001  (told to all ranks, of which one shows it)
            return Saved(reason=_put_in_a_line(error))

    def _write(self, mark: Mark, shares: list[dict[str, Any]]) -> Path:
        """Writes the checkpoint, on the first rank.

        Raises:
            CheckpointError: It could not be written.
        """
        trainer = self.trainer
        place = Path(str(trainer.args.output_dir)) / f"checkpoint-{mark.step}"
        trainer.finish_saving()
        if trainer.saved_step == mark.step:
            return place
        trainer.restore_counts_(mark.counts)
        trainer.state.total_flos += sum(share["flos"] for share in shares)
        trainer.current_flos = 0
        loss = sum(share["log_loss"] for share in shares) / len(shares)
        sums = {
            name: torch.tensor([share["sums"][name] for share in shares], dtype=torch.float64).sum(0)
            for name in mark.counts.sums
        }
        trainer.gathered_log = trainer.describe_log(loss, sums)
        trainer.args.save_only_model = False
        trainer.save_alone(place, [base64.b64decode(share["random"]) for share in shares])
        return place

    def _end(self, failed: dict[str, int], saved: Saved) -> None:
        """Ends this rank, whose main thread cannot be asked to; the one that failed has ended, or is about to."""
        trainer = self.trainer
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.on_train_end(trainer.args, trainer.state, trainer.control)
            elif isinstance(callback, Progress):
                callback.close()
        outcome = saved.describe(failed["step"])
        text = (
            f"error: rank {rank()}: ended with rank {failed['rank']}, whose memory has run out in step "
            f"{failed['step'] + 1:,}; {outcome}"
        )
        sys.stdout.flush()
        sys.stderr.write(redact(text) + "\n")
        sys.stderr.flush()
        time.sleep(_SECONDS_FOR_FIRST)
        os._exit(STATUS)


def _describe_share(mark: Mark) -> dict[str, Any]:
    """What a checkpoint has of this rank alone."""
    stream = io.BytesIO()
    torch.save(mark.random, stream)
    return {
        "random": base64.b64encode(stream.getvalue()).decode(),
        "flos": float(mark.counts.flos),
        "log_loss": mark.counts.log_loss.item(),
        "sums": {name: total.tolist() for name, total in mark.counts.sums.items()},
    }


def _read_shares(board: Board) -> list[dict[str, Any]]:
    """Those of all ranks; in place of one that has not come in time, a reason."""
    deadline = time.monotonic() + _SECONDS_FOR_SHARES
    shares = []
    for number in range(num_ranks()):
        found = board.wait(f"share-{number}", deadline - time.monotonic())
        late = {"reason": f"rank {number} has not answered in time"}
        shares.append(json.loads(found) if found is not None else late)
    return shares


def _put_in_a_line(error: Exception) -> str:
    text = error.message if isinstance(error, SiredonError) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
