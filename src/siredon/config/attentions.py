"""What each implementation of attention needs beside PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution


@dataclass(frozen=True)
class Need:
    """What an implementation of attention needs to train.

    Args:
        package: Distribution that must be installed; empty for none.
        install: The command that installs it.
        capability: Oldest generation of NVIDIA GPU; (0, 0) is any.
        is_half: Whether it computes in 16 bits only.
        instead: The implementation that needs less.
    """

    package: str = ""
    install: str = ""
    capability: tuple[int, int] = (0, 0)
    is_half: bool = False
    instead: str = "sdpa"

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
    "flash_attention_2": Need("flash-attn", "pip install flash-attn --no-build-isolation", (8, 0), True),
    "flash_attention_3": Need(
        "flash-attn-3",
        "build it from the folder `hopper` of flash-attention",
        (8, 0),
        True,
        "flash_attention_2",
    ),
    "flash_attention_4": Need(
        "flash-attn-4", "pip install --pre flash-attn-4", (9, 0), True, "flash_attention_2"
    ),
    # Flex attention is a kernel that Triton makes; for a CPU it has no backward pass.
    "flex_attention": Need(capability=(7, 0)),
}
