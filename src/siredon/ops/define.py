"""Operations with kernels of ours, as `torch.library` has them, and past the dispatcher where nothing looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

#: Puts into the context of autograd what a backward pass needs: context, inputs, output.
Keep = Callable[[Any, tuple[Any, ...], Any], None]


def define_op(
    name: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    mutates_args: Iterable[str] = (),
    keep: Keep | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A custom op of PyTorch, called as one where a compiler or a dispatch mode sees operations, else as a function.

    A custom op costs the CPU a tenth of a millisecond for each call, a good part of the time of a layer of a small
    model; what it computes is the same either way.

    Args:
        name: In the namespace of ops, such as `siredon::rope`.
        run: Computes it on any device; its annotations are the schema of the op.
        fake: Gives what `run` gives, without values.
        mutates_args: Which arguments are written over.
        keep: With `backward`: what is kept for it.
        backward: Gradients of the inputs, from the context and the gradients of the outputs; None for an op that no
            gradient goes through.

    Returns:
        The op, to be called with positional arguments.
    """
    op = torch.library.custom_op(name, run, mutates_args=tuple(mutates_args))
    op.register_fake(fake)
    straight = run
    if backward is not None and keep is not None:
        op.register_autograd(backward, setup_context=keep)
        straight = _differentiate(name, run, keep, backward)

    def call(*args: Any) -> Any:
        return op(*args) if is_seen() else straight(*args)

    return call


def is_seen() -> bool:
    """Whether something sees each operation: a compiler, or a mode such as that of selective checkpointing."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()


def _differentiate(
    name: str, run: Callable[..., Any], keep: Keep, backward: Callable[..., Any]
) -> Callable[..., Any]:
    def forward(ctx: Any, *args: Any) -> Any:
        output = run(*args)
        keep(ctx, args, output)
        return output

    parts = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(name.rpartition(":")[2], (torch.autograd.Function,), parts)
    apply: Callable[..., Any] = function.apply  # type: ignore[attr-defined]
    return apply
