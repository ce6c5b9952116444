"""Operations know in which pass they are: not in the forward pass, yes when a layer runs again."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from siredon.ops.recomputing import is_checkpointed, is_recomputing, mark_recomputing, recomputing


class Told:
    """A layer that writes down what it was told, each time that it runs, and in which thread."""

    def __init__(self) -> None:
        self.passes: list[bool] = []
        self.first: list[bool] = []
        self.threads: list[int] = []

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Two products, of which the second one is the last operation that saves anything."""
        self.passes.append(is_recomputing())
        self.first.append(is_checkpointed())
        self.threads.append(threading.get_ident())
        return (values @ values).sin() @ values


def keep_nothing(*_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.PREFER_RECOMPUTE


def keep_products(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    wanted = operation is torch.ops.aten.mm.default
    return CheckpointPolicy.MUST_SAVE if wanted else CheckpointPolicy.PREFER_RECOMPUTE


def run(layer: Any, **options: Any) -> torch.Tensor:
    torch.manual_seed(0)
    values = torch.randn(4, 4, requires_grad=True)
    result = checkpoint(layer, values, use_reentrant=False, **options) if options else layer(values)
    result.sum().backward()
    assert values.grad is not None
    return values.grad


@pytest.mark.parametrize("policy", [None, keep_nothing, keep_products])
def test_a_layer_is_told_when_it_runs_again(policy: Any):
    layer = Told()
    contexts = partial(create_selective_checkpoint_contexts, policy) if policy else None
    marked = run(layer, context_fn=partial(mark_recomputing, contexts))
    assert layer.passes == [False, True]
    assert layer.first == [True, False]
    assert not is_recomputing()
    assert not is_checkpointed()
    plain = Told()
    assert torch.equal(marked, run(plain))
    assert plain.first == [False]


def test_a_context_that_is_given_along_still_works():
    products: list[Any] = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            products.append(func) if func is torch.ops.aten.mm.default else None
            return func(*args, **(kwargs or {}))

    layer = Told()
    contexts = partial(create_selective_checkpoint_contexts, keep_products)
    with Count():
        run(layer, context_fn=partial(mark_recomputing, contexts))
    forward_and_backward = len(products)
    products.clear()
    with Count():
        run(layer)
    assert forward_and_backward == len(products), "products that were kept are not computed again"


def test_another_thread_is_not_told():
    seen: list[bool] = []
    with recomputing():
        assert is_recomputing()
        thread = threading.Thread(target=lambda: seen.append(is_recomputing()))
        thread.start()
        thread.join()
        with recomputing():
            assert is_recomputing()
        assert is_recomputing(), "the outer one goes on when the inner one ends"
    assert seen == [False]
    assert not is_recomputing()


def test_a_failure_leaves_no_mark():
    class Failing:
        def __enter__(self) -> None:
            raise ValueError("no")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("it was never entered")

    _, again = mark_recomputing(lambda: (recomputing(), Failing()))
    with pytest.raises(ValueError, match="no"), again:
        pass
    assert not is_recomputing()
    with pytest.raises(KeyError), recomputing():
        raise KeyError
    assert not is_recomputing()


def test_compiled_code_serves_both_passes_and_is_never_told():
    @torch.compile(backend="eager", fullgraph=True)
    def layer(values: torch.Tensor) -> torch.Tensor:
        return values + 1 if is_recomputing() else values * 2

    values = torch.full((2,), 3.0)
    with recomputing():
        assert torch.equal(layer(values), values * 2)
