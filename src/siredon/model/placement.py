"""Where weights are laid while they are read: `device_map`, `max_memory`, `gpu_memory_limit`."""

from __future__ import annotations

from typing import Any

from siredon.config.sections.placement import PlacementSection
from siredon.distributed.ranks import num_ranks
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.log import note

#: Where weights can lie that are not computed with.
_ASIDE = ("cpu", "disk", "meta")


def place_weights(section: PlacementSection, hardware: Hardware) -> dict[str, Any]:
    """What `from_pretrained` has to know of it; nothing, unless the config lays weights out.

    Raises:
        ModelError: Several processes, each of which has a device of its own; or a limit for GPUs without one.
    """
    if not section.spread_by:
        return {}
    if num_ranks() > 1:
        raise ModelError(
            f"`{section.spread_by}` lays one model over the devices of one process, and this run has {num_ranks()}",
            "Remove it, or start one process: `siredon train CONFIG` without a launcher.",
        )
    if section.gpu_memory_limit is not None and not hardware.is_gpu:
        raise ModelError(f"`gpu_memory_limit` needs a GPU; this run is on {hardware.name}", "Remove the key.")
    options: dict[str, Any] = {"device_map": "auto" if section.device_map is None else section.device_map}
    limits = _read_limits(section, hardware)
    return {**options, "max_memory": limits} if limits else options


def check_placement(model: Any, hardware: Hardware) -> None:
    """Every weight lies where it can be trained; says where they lie, if that is more than one place.

    Raises:
        ModelError: Some were put aside, as the devices have no room.
    """
    if "hf_device_map" not in vars(model):
        return
    places = {name: str(device) for name, device in model.hf_device_map.items()}
    allowed = () if hardware.is_gpu else ("cpu",)
    aside = [name for name, device in places.items() if device in _ASIDE and device not in allowed]
    if aside:
        raise ModelError(
            f"`device_map`: {aside[0]} (and {len(aside) - 1} more parts) would lie on {places[aside[0]]}, where "
            "nothing is trained: the devices have too little room, or `max_memory` gives them too little",
            "Give more memory, use fewer bits a weight, or a smaller model.",
        )
    if len(set(places.values())) > 1:
        shown = {device: sum(1 for other in places.values() if other == device) for device in places.values()}
        note("weights: " + ", ".join(f"{count} parts on device {device}" for device, count in shown.items()))


def is_spread(model: Any) -> bool:
    """Whether the layers of a model lie on several devices."""
    return "hf_device_map" in vars(model) and len(set(model.hf_device_map.values())) > 1


def _read_limits(section: PlacementSection, hardware: Hardware) -> dict[int | str, int | str]:
    """Device -> bytes, as accelerate takes it."""
    if section.gpu_memory_limit is not None:
        limit = section.gpu_memory_limit
        each = f"{limit}GiB" if isinstance(limit, int) else limit
        return dict.fromkeys(range(hardware.num_devices), each)
    limits = section.max_memory or {}
    return {int(device) if device.isdecimal() else device: limit for device, limit in limits.items()}
