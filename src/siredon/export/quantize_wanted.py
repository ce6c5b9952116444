"""What `siredon quantize` is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quantize:
    """The words of one command line.

    Args:
        method: A part of the shelf `quantizers/`; None for what the configuration says.
        group_size: Weights that share a scale, beside `method`; None for what the method takes by itself.
        quantize_embedding: Whether embeddings are rounded too, beside `method`.
        output: The folder that is written; None for `quantized` in the folder of the run.
        base_model: The model that is rounded in place of the run's; None for that.
        verify: What was written is read back and held against what it was made of.
        compressor_env: The environment in which llm-compressor is; None for `.compressor-env` here.
        max_kl: The most that they may differ, in nats a token; None for no bound.
    """

    method: str | None = None
    group_size: int | None = None
    quantize_embedding: bool = False
    output: Path | None = None
    base_model: str | None = None
    compressor_env: Path | None = None
    verify: bool = True
    max_kl: float | None = None
