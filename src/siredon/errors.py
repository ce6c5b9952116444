"""Every exception Siredon raises on purpose.

    SiredonError                    caught once, in `cli`, and shown without a traceback
    ├── ConfigError                 the YAML has problems: carries all of them, located
    ├── DataError                   rows that cannot be read, rendered or labelled
    ├── ModelError                  weights, tokenizer or adapter that cannot be built
    ├── CheckpointError             a checkpoint that is missing, torn or foreign
    ├── TrainingError               a run that cannot go on
    └── UnknownPartError            a name that is on no shelf

Each message says where, what, and the way out.  An `AssertionError` is a mistake of ours.
"""

from __future__ import annotations


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


class UnknownPartError(SiredonError):
    """A name in the YAML for which no shelf holds a part."""
