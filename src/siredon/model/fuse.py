"""Config and model -> fused kernels on it, and what is said of them."""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.log import note, warn
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation


def fuse_(base: Any, config: Config, hardware: Hardware) -> Installed:
    """Lays the kernels that the config asks for, or that help here, over a model, and says so.

    Args:
        base: The model of transformers, adapters inside it.
        config: The whole config.
        hardware: What the run is on.
    """
    wanted = choose_kernels(config)
    installed = install_kernels_(base, wanted, describe_situation(config, hardware))
    if used := installed.describe():
        note(f"kernels: {used}")
    for row in installed.rows:
        if wanted[row.name] and not row.choice and config.kernels.kernels is not True:
            warn(f"`{row.name}` is asked for and not fused: {row.reason}")
    return installed


def choose_kernels(config: Config) -> dict[str, bool | None]:
    """Kernel -> asked for, ruled out, or left to the machine, by all the names that it has."""
    named = {name: asked for name, asked in config.liger.named.items() if asked is not None}
    return config.kernels.listed | named


def describe_situation(config: Config, hardware: Hardware) -> Situation:
    """What kernels are chosen by."""
    parts = config.kernels.lora_parts
    return Situation(
        hardware=hardware,
        attention=config.attention.attn_implementation,
        compiles=bool(config.compile.torch_compile),
        plain_lora=frozenset(name for name, asked in parts.items() if asked is False),
    )
