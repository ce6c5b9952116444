"""Ops past the dispatcher and as PyTorch sees them: the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from siredon.ops.glu import glu
from siredon.ops.layer_norm import layer_norm
from siredon.ops.rms_norm import add_rms_norm, rms_norm
from siredon.ops.rope import rope


class Watch(TorchDispatchMode):
    """Sees each operation, and lets it be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(str(func.name()))
        return func(*args, **(kwargs or {}))


def turn(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
    angle = torch.linspace(0.0, 1.0, 4)[None, :, None].expand(1, 4, 4)
    angle = torch.cat([angle, angle], -1)
    return torch.cat(rope(x.view(1, 3, 4, 8), y.view(1, 3, 4, 8), angle.cos(), angle.sin()))


OPS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "siredon::rms_norm": lambda x, y, w: rms_norm(x, w, 1e-5),
    "siredon::add_rms_norm": lambda x, y, w: torch.cat(add_rms_norm(x, y, w, 1e-5)),
    "siredon::layer_norm": lambda x, y, w: layer_norm(x, w, None, 1e-5),
    "siredon::glu": lambda x, y, w: glu(x, y, "silu") * w,
    "siredon::rope": turn,
}


@pytest.mark.parametrize("name", OPS)
def test_a_mode_sees_the_op_and_changes_no_bit(name: str) -> None:
    def run() -> list[Tensor | None]:
        torch.manual_seed(0)
        given = [torch.randn(12, 8, requires_grad=True) for _ in range(2)]
        given.append(torch.randn(8, requires_grad=True))
        output = OPS[name](*given)
        output.square().sum().backward()
        return [output, *(each.grad for each in given)]

    with Watch() as watch:
        seen = run()
    straight = run()
    assert name in watch.names
    for one, other in zip(seen, straight, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


def test_nothing_is_dispatched_where_nothing_looks() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8), 1e-5)
    assert "rms_norm" in type(y.grad_fn).__name__
    assert "Generated" not in type(y.grad_fn).__name__
