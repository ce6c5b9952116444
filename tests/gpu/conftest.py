"""What every test on a GPU begins with: products in full fp32, and warnings of PyTorch that ask nothing of us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

#: What PyTorch says while it does what it is told.
_EXPECTED = (
    r"ignore:(?s).*defaults to a non-deterministic algorithm.*:UserWarning",
    r"ignore:(?s).*The \.grad attribute of a Tensor.*:UserWarning",
    r"ignore:(?s).*Online softmax is disabled.*:UserWarning",
    r"ignore:(?s).*flex_attention called without torch\.compile.*:UserWarning",
    r"ignore:(?s).*Profiler clears events.*:UserWarning",
    r"ignore:(?s).*AccumulateGrad node.*:UserWarning",
    r"ignore:(?s).*TensorFloat32 tensor cores.*:UserWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for text in _EXPECTED:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(autouse=True)
def full_fp32() -> Iterator[None]:
    """A run with `tf32: auto` leaves TensorFloat-32 on for the rest of its process."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision("highest")
