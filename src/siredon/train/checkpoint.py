"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path

from siredon.config.sections.checkpoint import CheckpointSection
from siredon.errors import CheckpointError

_PREFIX = "checkpoint-"


def find_resume_folder(section: CheckpointSection) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Raises:
        CheckpointError: The named checkpoint lacks what resuming needs.
    """
    if section.resume_from_checkpoint:
        folder = Path(section.resume_from_checkpoint).expanduser()
        missing = _missing(folder)
        if missing:
            raise CheckpointError(
                f"resume_from_checkpoint: {folder} has no {missing}",
                "Name a complete `checkpoint-N` folder (not one of `save_only_model: true`).",
            )
        return folder
    if section.auto_resume_from_checkpoints:
        whole = [folder for folder in list_checkpoints(Path(section.output_dir)) if not _missing(folder)]
        return whole[-1] if whole else None
    return None


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The `checkpoint-N` folders, by N."""
    numbered = [
        (int(folder.name.removeprefix(_PREFIX)), folder)
        for folder in output_dir.glob(f"{_PREFIX}*")
        if folder.is_dir() and folder.name.removeprefix(_PREFIX).isdigit()
    ]
    return [folder for _, folder in sorted(numbered)]


def _missing(folder: Path) -> str:
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt"):
        if not (folder / name).is_file():
            return name
    return ""
