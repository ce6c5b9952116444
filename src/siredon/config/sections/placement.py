"""Where weights lie."""

from __future__ import annotations

from typing import Any

from siredon.config.fields import Bool, Int, Section, Str, planned


class PlacementSection(Section):
    """Where the weights lie while they are read."""

    device_map: Int | Str | dict[str, Any] | None = planned("Part of the model -> device; or `auto`.")
    max_memory: dict[Str, Int | Str] | None = planned("Device (`0`, `cpu`, `disk`) -> bytes, or as `20GiB`.")
    gpu_memory_limit: Int | Str | None = planned("Most memory on each GPU, in GB or as `20GiB`.")
    low_cpu_mem_usage: Bool = planned("Never hold the weights twice in RAM.", True)
    experimental_skip_move_to_device: Bool = planned("Do not touch the GPU before weights are sharded.", True)
