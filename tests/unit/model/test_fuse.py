"""What is said of the kernels of a run."""

from __future__ import annotations

import pytest
from tests.unit.config.texts import accept

from siredon.hardware import Hardware
from siredon.model.fuse import advise_compiling

CPU, GPU = (Hardware(device, "test", 1, True, True, 1) for device in ("cpu", "cuda"))


@pytest.mark.parametrize(
    ("hardware", "width", "keys", "speaks"),
    [
        (GPU, 576, "", True),
        (GPU, 2048, "", False),
        (GPU, 576, "torch_compile: false\n", False),
        (CPU, 576, "", False),
    ],
)
def test_small_models_on_a_gpu_are_told_of_the_compiler(
    hardware: Hardware, width: int, keys: str, speaks: bool
):
    said = advise_compiling(width, accept(keys), hardware)
    assert ("torch_compile: true" in said) == speaks
