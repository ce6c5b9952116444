"""What each implementation of attention needs beside PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution


@dataclass(frozen=True)
class Need:
    """What an implementation of attention needs to train.

    Args:
        package: Distribution that must be installed; empty for none.
        install: How it is installed, a command in backquotes.
        capability: Oldest generation of NVIDIA GPU; (0, 0) is any.
        is_half: Whether it computes in 16 bits only.
        instead: The implementation that needs less.
        needs_gpu: Whether it has no kernel for a CPU that trains.
    """

    package: str = ""
    install: str = ""
    capability: tuple[int, int] = (0, 0)
    is_half: bool = False
    instead: str = "sdpa"
    needs_gpu: bool = True

    @property
    def is_missing(self) -> bool:
        """Whether the package is not installed."""
        if not self.package:
            return False
        try:
            distribution(self.package)
        except PackageNotFoundError:
            return True
        return False


#: Value of `attn_implementation` -> what it needs.  What is not here needs PyTorch alone, on any device.
NEEDS = {
    "flash_attention_2": Need("flash-attn", "`pip install flash-attn --no-build-isolation`", (8, 0), True),
    "flash_attention_3": Need(
        "flash-attn-3",
        "`python setup.py install` in the folder `hopper` of the source of flash-attention",
        (8, 0),
        True,
        "flash_attention_2",
    ),
    "flash_attention_4": Need(
        "flash-attn-4", "`pip install --pre flash-attn-4`", (9, 0), True, "flash_attention_2"
    ),
    # Flex attention is a kernel that Triton makes; for a CPU it has no backward pass.
    "flex_attention": Need(capability=(7, 0)),
    "xformers": Need("xformers", "`pip install xformers`", (7, 5)),
}

#: Kernels of flash attention on the hub -> the version that is loaded where a config names none; 1 for others.
KERNEL_VERSIONS = {
    "kernels-community/aiter-flash-attn": 2,
    "kernels-community/flash-attn2": 4,
    "kernels-community/flash-attn4": 0,
}

#: Whose kernels the package kernels itself trusts.
KNOWN_OWNER = "kernels-community"


def is_hub_id(name: str) -> bool:
    """Whether a value of `attn_implementation` is a kernel of the hub."""
    return "/" in name


def find_need(name: str) -> Need | None:
    """What an implementation needs; None for PyTorch alone."""
    if not is_hub_id(name):
        return NEEDS.get(name)
    is_half = name.startswith(f"{KNOWN_OWNER}/") and "flash" in name
    return Need("kernels", "`pip install 'siredon[kernels]'`", is_half=is_half, needs_gpu=False)
