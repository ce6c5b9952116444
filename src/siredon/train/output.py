"""The output folder, made ready for a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from siredon.errors import CheckpointError
from siredon.log import note
from siredon.train.publish import DRAFT, RESULT, clear_drafts, discard

_FOREIGN = ("adapter_config.json", "config.json", "model.safetensors", "checkpoint-*")


def prepare_output(folder: Path, *, resumes: bool) -> None:
    """Makes the folder, clears away what a killed run left half written, and sets an earlier run aside.

    Raises:
        CheckpointError: The folder holds a model that siredon did not write.
    """
    if not resumes:
        set_earlier_run_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_drafts(folder)
    # The result of a run that was shorter: this one writes its own
    discard(folder / RESULT)


def set_earlier_run_aside(folder: Path) -> None:
    """Moves what an earlier run of siredon wrote into `earlier/<its start>`, so that no file of it is taken
    for one of this run.

    Raises:
        CheckpointError: The folder holds a model that siredon did not write.
    """
    if not folder.is_dir():
        return
    record = folder / "run.json"
    if not record.is_file():
        foreign = [path.name for pattern in _FOREIGN for path in folder.glob(pattern)]
        if foreign:
            raise CheckpointError(
                f"output_dir: {folder} holds {foreign[0]}, which no run of siredon wrote",
                "Choose another `output_dir`, or empty this one.",
            )
        return
    try:
        started = str(json.loads(record.read_text())["started"])
    except (ValueError, KeyError):
        started = datetime.now(UTC).isoformat(timespec="seconds")
    stamp = "".join(char for char in started if char.isalnum())
    aside = folder / "earlier" / stamp
    number = 1
    while aside.exists():
        number += 1
        aside = folder / "earlier" / f"{stamp}-{number}"
    aside.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != "earlier" and not path.name.startswith(DRAFT):
            path.rename(aside / path.name)
    note(f"the earlier run in {folder} is now in {aside}")
