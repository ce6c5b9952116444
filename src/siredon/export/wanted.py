"""What `siredon export` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """The words of one command line.

    Args:
        format: A part of the shelf `formats/`.
        type: The number format of the weights; None for what the format takes by itself.
        output: The file or folder that is written; None for a place in the folder of the run.
        max_shard_size: Largest file of a folder of safetensors, such as `5GB`.
        system: The system message of a Modelfile; empty for none.
    """

    format: str
    type: str | None = None
    output: Path | None = None
    max_shard_size: str = "5GB"
    system: str = ""
