"""Config and model -> fused kernels on it, and what is said of them."""

from __future__ import annotations

from typing import Any

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.log import note, warn
from siredon.model.install import Installed, install_kernels_
from siredon.model.kernel import Situation

#: Widest layers of which was measured that the compiler is ahead.
_NARROW = 576


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
    if advice := advise_compiling(
        base.config.get_text_config().to_dict().get("hidden_size"), config, hardware
    ):
        note(advice)
    for row in installed.rows:
        if wanted[row.name] and not row.choice and config.kernels.kernels is not True:
            warn(f"`{row.name}` is asked for and not fused: {row.reason}")
    return installed


def advise_compiling(width: int | None, config: Config, hardware: Hardware) -> str:
    """What is said of a model whose layers take a GPU less time than the CPU takes to launch them; empty for others.

    Args:
        width: Of its layers, where the config of the model has it.
        config: The whole config.
        hardware: What the run is on.
    """
    if not hardware.is_gpu or config.compile.torch_compile is not None or width is None or width > _NARROW:
        return ""
    return (
        "compile: layers of this model are so small that the CPU is the bound; `torch_compile: true` was 1.2 to 1.7 "
        "times as fast, with `torch_compile_mode: reduce-overhead` up to 2.4 times (135M parameters)"
    )


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
