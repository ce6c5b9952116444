"""Where weights lie."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from siredon.config.fields import Int, Section, Str, key

#: A GPU is written `0` or `"0"`.
_Device = Annotated[Str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class PlacementSection(Section):
    """Where the weights lie while they are read."""

    device_map: Int | Str | dict[str, Any] | None = key(
        "Part of the model -> device; or `auto`: spread over the GPUs of one process.", None
    )
    max_memory: dict[_Device, Int | Str] | None = key(
        "Device (`0`, `cpu`) -> bytes, or as `20GiB`; spreads as `device_map: auto`.", None
    )
    gpu_memory_limit: Int | Str | None = key(
        "Most memory for weights on each GPU, in GB or as `20GiB`; spreads as `device_map: auto`.", None
    )

    @property
    def spread_by(self) -> str:
        """The key that lays the weights onto devices while they are read; empty if none does."""
        asked = (
            ("device_map", self.device_map),
            ("max_memory", self.max_memory),
            ("gpu_memory_limit", self.gpu_memory_limit),
        )
        return next((name for name, value in asked if value is not None), "")
