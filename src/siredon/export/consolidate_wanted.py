"""What `merge-sharded-fsdp-weights` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Consolidation:
    """The words of one command line.

    Args:
        checkpoint: The folder with the pieces; None for the one in the folder of the run.
        output: The folder that is written; None for `merged` or, of an adapter, `adapter` in the folder of the run.
        dtype: The number format of the weights: `bf16`, `f16` or `f32`; None for that of the run.
        max_shard_size: Largest file, such as `5GB`.
    """

    checkpoint: Path | None = None
    output: Path | None = None
    dtype: str | None = None
    max_shard_size: str = "5GB"
