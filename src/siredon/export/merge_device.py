"""Where training rounded the base of an adapter, and where a merge rounds it.

Devices do not round alike.  For the scale of a block of 64 weights, itself kept in 8 bits, bitsandbytes takes the
nearest value on a GPU, and on a CPU the second nearest where both are almost as near: for one or two blocks in a
thousand.  `docs/merging.md` has the figures.
"""

from __future__ import annotations

from pathlib import Path

from siredon.config.sections.quantization import QuantizationSection
from siredon.export.origin import find_record
from siredon.hardware import Hardware, name_local_device

_CPU = "cpu"


def read_training_device(adapter: Path) -> str:
    """The device that trained an adapter, as the record of its run names it; empty where there is none."""
    hardware = find_record(adapter).get("hardware")
    return str(hardware.get("device", "")) if isinstance(hardware, dict) else ""


def choose_rounding_device(adapter: Path, hardware: Hardware) -> str:
    """Where weights are rounded one by one: on the CPU for an adapter that was trained there, as every machine has one.

    Args:
        adapter: Its folder.
        hardware: What there is.
    """
    return _CPU if read_training_device(adapter) == _CPU else name_local_device(hardware)


def explain_devices(section: QuantizationSection, adapter: Path, used: str) -> str:
    """Why the base of a merge is not that of training to the bit; empty if it is, or nothing is known.

    Args:
        section: How weights are rounded.
        adapter: The folder of the adapter.
        used: The device that rounds them for the merge.
    """
    trained = read_training_device(adapter)
    if not section.ways or section.merge_base == "original" or not trained:
        return ""
    if (trained == _CPU) == (used == _CPU):
        return ""
    here, there = (_CPU.upper() if device == _CPU else "GPU" for device in (used, trained))
    return (
        f"the base is rounded on a {here} and was on a {there} in training: a few of its numbers are "
        "rounded otherwise"
    )
