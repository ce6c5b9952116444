"""What a checkpoint that cannot be restored comes to: one whose files are damaged, or hold code.

`Trainer` reads `optimizer.pt`, `scheduler.pt`, `scaler.pt` and `rng_state*.pth` by `torch.load` with `weights_only`,
which builds tensors and plain values, and refuses everything else before it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch

from siredon.errors import CheckpointError

#: What files that are not what they should be raise while they are read.
_WRONG = (UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
_ANOTHER = "Go on from another checkpoint, by `resume_from_checkpoint`, or start anew."
_CODE_FIX = f"A checkpoint that siredon wrote holds none: do not trust this one. {_ANOTHER}"


@contextmanager
def explain_state(checkpoint: str | None, *patterns: str) -> Iterator[None]:
    """Turns what reading a part of a checkpoint raises into an error that names the file.

    Args:
        checkpoint: The folder; None for a fresh run.
        patterns: The files that are read inside.

    Raises:
        CheckpointError: A file holds more than tensors and plain values, or not what was saved.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _WRONG as error:
        folder = Path(checkpoint or "")
        paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        names = " or ".join(path.name for path in paths)
        if not isinstance(error, UnpicklingError):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{folder}: {names} cannot be restored: {reason}", _ANOTHER) from error
        # What `torch.load` says goes on to advise reading the file without protection
        found = re.search(r"(?:GLOBAL|instance of class) (\S+)", str(error))
        where = next((path.name for path in paths if found and found[1] in _list_names(path)), names)
        code = f": it names {found[1]}" if found else ""
        raise CheckpointError(
            f"{folder}: {where} holds more than tensors and plain values, and is not read{code}", _CODE_FIX
        ) from error


def _list_names(path: Path) -> list[str]:
    """The functions and classes that a file of `torch.save` names beyond those that are harmless."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except _WRONG:  # No such file
        return []
