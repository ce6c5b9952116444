"""`deterministic: true`: kernels that give the same bits each time, and what is said of a step that has none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from siredon.config.sections.batch import BatchSection
from siredon.errors import TrainingError
from siredon.hardware import deterministic_libraries

_NO_KERNEL = re.compile(r"(\S+) does not have a deterministic implementation")
_NO_WORKSPACE = "Deterministic behavior was enabled"


@contextmanager
def deterministic_run(section: BatchSection) -> Iterator[None]:
    """Inside, PyTorch takes only deterministic kernels, if the config asks for it; afterwards all is as before.

    Attention is among them: with the flag, the backward pass of PyTorch's own kernels and of flash attention sums
    in a fixed order.

    Raises:
        TrainingError: A step has no deterministic kernel.
    """
    if not section.deterministic:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with deterministic_libraries():
        torch.use_deterministic_algorithms(True)
        try:
            yield
        except RuntimeError as error:
            explained = _explain(error)
            if explained is None:
                raise
            raise explained from error
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _explain(error: RuntimeError) -> TrainingError | None:
    """What to tell of an operation that has no deterministic kernel; None of any other error."""
    text = str(error)
    found = _NO_KERNEL.search(text)
    if found:
        return TrainingError(
            f"deterministic: {found[1]} has no deterministic kernel on this device",
            "Set `attn_implementation: eager` if it is called by attention, train without the part of the model or "
            "of the config that calls it, or set `deterministic: false`.",
        )
    if _NO_WORKSPACE in text:
        return TrainingError(
            "deterministic: with CUBLAS_WORKSPACE_CONFIG as the environment has it, cuBLAS is not",
            "Unset it, or set it to `:4096:8`.",
        )
    return None
