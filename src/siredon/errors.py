"""Every exception Siredon raises on purpose.

    SiredonError                    caught once, in `cli`, and shown without a traceback
    ├── ConfigError                 the YAML has problems: carries all of them, located
    ├── DataError                   rows that cannot be read, rendered or labelled
    ├── ModelError                  weights, tokenizer or adapter that cannot be built
    ├── CheckpointError             a checkpoint that is missing, torn or foreign
    ├── TrainingError               a run that cannot go on
    ├── ServeError                  a server that cannot be started
    ├── HubError                    an upload that is refused, or would show a secret
    │   └── UnreachableError        ... that may come through later
    └── UnknownPartError            a name that is on no shelf

Each message says where, what, and the way out.  An `AssertionError` is a mistake of ours.

`Interrupted` stands beside the tree: it is no error, and nothing that handles errors may take it for one.
"""

from __future__ import annotations

import re

_LOST_RANK = re.compile(
    r"gloo.*Connection (closed|reset) by|remote worker hanging|NCCL.*remote process exited", re.DOTALL
)
_FROM_LAST = "from the last checkpoint by `auto_resume_from_checkpoints: true`."
_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)")


class SiredonError(Exception):
    """A problem that the user can solve.

    Args:
        message: Where and what, in one or two sentences.
        fix: The way out, as an instruction; empty if the message already holds it.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class ConfigError(SiredonError):
    """The configuration has at least one error; `report` shows every problem, located."""

    def __init__(self, report: str, num_errors: int) -> None:
        super().__init__(report)
        self.num_errors = num_errors


class DataError(SiredonError):
    """Rows that cannot be read, rendered, labelled or packed."""


class ModelError(SiredonError):
    """A model, tokenizer or adapter that cannot be loaded or built."""


class CheckpointError(SiredonError):
    """A checkpoint or adapter folder that is missing, incomplete or of another model."""


class TrainingError(SiredonError):
    """A run that cannot be made as asked, or that has failed."""


class ServeError(SiredonError):
    """A server that cannot be started: a package, an address, or an environment is missing."""


class HubError(SiredonError):
    """An upload that the hub refuses, or that must not be made."""


class UnreachableError(HubError):
    """An upload that did not come through, and may do so later."""


class UnknownPartError(SiredonError):
    """A name in the YAML for which no shelf holds a part."""


class Interrupted(BaseException):
    """A run that was asked to end before its time, and can go on from where it stopped.

    Like `KeyboardInterrupt` it is no `Exception`, so that no handler of errors on its way keeps it.

    Args:
        by: What asked: the name of a signal, or of a key.
        step: Optimizer steps done; None before training.
        checkpoint: The folder that holds them; empty if nothing was there to be saved.
    """

    def __init__(self, by: str, step: int | None = None, checkpoint: str = "") -> None:
        super().__init__(by)
        self.by = by
        self.step = step
        self.checkpoint = checkpoint
        #: What the same command needs besides, to go on.
        self.setting = ""

    def __str__(self) -> str:
        if self.checkpoint:
            return f"interrupted by {self.by} after step {self.step:,}: everything is in {self.checkpoint}"
        return f"interrupted by {self.by}: nothing was left to save"


def explain_lost_process(error: BaseException) -> TrainingError | None:
    """What to say when another process of the run is no more; None where that is not what happened.

    Of a process of its `DataLoader` PyTorch says so wherever the main process is, and more than once; of another rank,
    in the next sum that needs it.  All are a RuntimeError.
    """
    line = next(iter(str(error).splitlines()), "")
    if _LOST_WORKER.search(line):
        return TrainingError(
            f"a process that fetches batches has ended before its time: {line}",
            "Mostly the system has killed it for want of memory: write fewer `dataloader_num_workers`, or 0, and go on "
            f"{_FROM_LAST}",
        )
    if isinstance(error, RuntimeError) and _LOST_RANK.search(str(error)):
        return TrainingError(
            f"another rank of this run is no more: {line}",
            f"Look at what it said, and at what killed it; start all ranks again, and go on {_FROM_LAST}",
        )
    return None
