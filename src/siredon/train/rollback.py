"""Going back to a checkpoint: the run begins again from there, in this process, and passes over what was bad.

It is the same as a resume by the user, whose exactness it has: everything is built anew, and nothing of the attempt
before is left but the list of steps that are passed over.  The list is a file in `output_dir`, and in every
checkpoint, so that a run that is killed in between passes over the same steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from siredon.config.schema import Config
from siredon.hardware import probe_hardware, release_memory
from siredon.log import is_main_process, warn
from siredon.train.checkpoint import find_resume_folder
from siredon.train.publish import BEST, LATEST, PREFIX, discard, point, write_whole
from siredon.train.resume_rules import Identity
from siredon.train.space import explain_disk

#: Folder in `output_dir` for what is kept of bad steps.
FOLDER = "bad_steps"
_LIST = "skipped.json"


@dataclass(frozen=True)
class Window:
    """Optimizer steps, counted from 1, whose batches are drawn and not trained on.

    Args:
        first: The first.
        last: The last: the one that was bad.
        back_to: The step to which the run went back.
        why: What was bad.
    """

    first: int
    last: int
    back_to: int
    why: str


@dataclass(frozen=True)
class Rewind:
    """Where an attempt begins, and what it passes over.

    Args:
        is_rollback: It follows a rollback; the first attempt does not.
        folder: The checkpoint that a rollback goes back to; None for the start.
        windows: What this call has passed over so far.
    """

    is_rollback: bool = False
    folder: Path | None = None
    windows: tuple[Window, ...] = ()

    def name_origin(self, resume: Path | None) -> Path | str | None:
        """What the run record says of where the attempt began: nothing for a run that is fresh."""
        return resume or ("the start, by a rollback" if self.is_rollback else None)


class RolledBack(Exception):  # noqa: N818 - an order to begin again, and no error
    """An attempt is over, and the next one begins elsewhere.

    Args:
        rewind: Where.
    """

    def __init__(self, rewind: Rewind) -> None:
        super().__init__("rolled back")
        self.rewind = rewind


def run_with_rollbacks(attempt: Callable[[Rewind], None]) -> None:
    """Makes attempts until one comes to its end, or fails for good."""
    rewind = Rewind()
    while True:
        try:
            attempt(rewind)
        except RolledBack as back:
            rewind = back.rewind
        else:
            return
        # Models hang in cycles, and a GPU keeps what they held
        release_memory(probe_hardware())


def find_start(config: Config, identity: Identity, rewind: Rewind) -> Path | None:
    """The checkpoint that an attempt goes on from, or None for the start.

    Raises:
        CheckpointError: See `find_resume_folder`.
    """
    return rewind.folder if rewind.is_rollback else find_resume_folder(config, identity)


def drop_later(output: Path, steps: Sequence[int], folder: Path | None) -> None:
    """Deletes the checkpoints of some steps, and lets no link lead to them.

    The link `best` comes back with the next checkpoint, which knows the best one.

    Args:
        output: Their folder.
        steps: Steps behind those that are kept.
        folder: The checkpoint to go back to; None for the start.
    """
    for step in steps:
        discard(output / f"{PREFIX}{step}")
    for link in (output / LATEST, output / BEST):
        if link.is_symlink() and not link.exists():
            link.unlink()
    if steps and folder is not None and folder.parent == output:
        point(output, LATEST, folder)


def write_windows(output: Path, windows: Sequence[Window]) -> None:
    """Writes the list, in one step, on the first rank.

    Raises:
        CheckpointError: It cannot be written.
    """
    if not is_main_process():
        return
    path = output / FOLDER / _LIST
    with explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(window) for window in windows]
        write_whole(path, json.dumps({"windows": rows}, indent=1) + "\n")


def read_windows(output: Path) -> tuple[Window, ...]:
    """The list of an output folder; empty if there is none."""
    path = output / FOLDER / _LIST
    try:
        return parse_windows(json.loads(path.read_text())["windows"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{path} cannot be read, and no step is passed over because of it: {error}")
        return ()


def parse_windows(rows: Sequence[dict[str, object]]) -> tuple[Window, ...]:
    """What `asdict` made of windows."""
    return tuple(
        Window(int(str(row["first"])), int(str(row["last"])), int(str(row["back_to"])), str(row["why"]))
        for row in rows
    )
