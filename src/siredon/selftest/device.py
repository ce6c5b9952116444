"""The device of a proof table."""

from __future__ import annotations

from siredon.errors import TrainingError
from siredon.hardware import Hardware, probe_cpu, probe_hardware


def choose_hardware(device: str) -> Hardware:
    """What trials run on.

    Args:
        device: `cpu` or `gpu`.

    Raises:
        TrainingError: There is no such device.
    """
    if device == "cpu":
        return probe_cpu()
    found = probe_hardware()
    if not found.is_gpu:
        raise TrainingError(
            "--device gpu: PyTorch sees no GPU here", "Leave `--device` out: the table runs on the CPU."
        )
    return found
