"""Head and cross-entropy at once: the logits of all rows never exist together.

Rows go through the head a chunk at a time.  The loss of a chunk is taken from its logits, and the gradient of the
logits is written over them, so that hidden states and weights have their gradients when the chunk is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from siredon.hardware import GPU, has_triton
from siredon.ops.head_rows import (
    IGNORE,
    Gradients,
    choose_chunk_rows,
    empty_logits,
    match_formats,
    multiply_,
    split_rows,
    unit_of,
)


@dataclass(frozen=True)
class LossOptions:
    """What is done to logits before the loss, and what is added to it.

    Args:
        softcap: Logits x become `softcap * tanh(x / softcap)`; 0 for none.
        scale: Logits are multiplied by it, after the cap.
        label_smoothing: Share of the target that all tokens have alike, as `F.cross_entropy` defines it.
        z_loss: Times the squared `logsumexp` of a row, added to its loss.
        chunk_rows: Rows whose logits exist at once; None for `choose_chunk_rows`.
        num_targets: Rows with a target, where it is known; None counts them, for which the CPU waits for a GPU.
    """

    softcap: float = 0.0
    scale: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk_rows: int | None = None
    num_targets: int | None = None


#: The loss as it is without any of them.
PLAIN = LossOptions()

#: In place: logits [n, V] become their gradients, if wanted; returns the losses [n], fp32.
RowLoss = Callable[[Tensor, Tensor, Tensor | None, "RowOptions"], Tensor]


@dataclass(frozen=True)
class RowOptions:
    """The loss of one row of logits; see `LossOptions`.

    Args:
        softcap: The cap.
        scale: The scale.
        label_smoothing: The smoothing.
        z_loss: The weight of the squared logsumexp.
        unit: Gradients are this many times as large.
        writes: Whether logits become their gradients.
    """

    softcap: float
    scale: float
    label_smoothing: float
    z_loss: float
    unit: float
    writes: bool


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    options: LossOptions = PLAIN,
    bias: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Summed cross-entropy of the logits that a head gives.

    Equals `F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")`, and with options, for each row
    `x = scale * softcap * tanh((hidden @ weight.T + bias) / softcap)`, the sum of
    `token_weight * (F.cross_entropy(x, target, label_smoothing=...) + z_loss * logsumexp(x) ** 2)`.
    Sums are in fp32.  Where there are gradients to come, they are made with the loss.

    Args:
        hidden: Shape [N, H]: fp32, bf16 or fp16; under autocast it is cast, as for a linear layer.
        weight: Of the head, [V, H], in the same format.
        targets: Ids, [N]; -100 is no target, and its row does not go through the head.
        options: What is done to logits, and how many rows there are at once.
        bias: Of the head, [V].
        token_weights: Of each row's loss, [N]; no gradient reaches them.

    Returns:
        A scalar, fp32; 0 without targets.

    Raises:
        ValueError: Hidden states and weights are in different formats, or there is not one target for each row.
    """
    return linear_cross_entropy_rows(
        hidden, weight, targets, options=options, bias=bias, token_weights=token_weights
    )[0]


def linear_cross_entropy_rows(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    options: LossOptions = PLAIN,
    bias: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same, and beside the sum the loss of each row, [N], fp32: for looking at, it has no gradient."""
    hidden, weight, bias = match_formats(hidden, weight, bias, targets)
    learns = torch.is_grad_enabled()
    with torch.autocast(hidden.device.type, enabled=False):
        total, losses, *_ = _linear_cross_entropy(
            hidden,
            weight,
            targets,
            bias,
            token_weights,
            [options.softcap, options.scale, options.label_smoothing, options.z_loss],
            [
                options.chunk_rows or 0,
                -1 if options.num_targets is None else options.num_targets,
                learns and hidden.requires_grad,
                learns and weight.requires_grad,
                learns and bias is not None and bias.requires_grad,
            ],
        )
    return total, losses


def score_rows_(logits: Tensor, targets: Tensor, weights: Tensor | None, options: RowOptions) -> Tensor:
    """Losses of rows; their logits become gradients.  The plain path, and the specification of the kernel.

    Args:
        logits: Shape [n, V].
        targets: Ids, [n].
        weights: Of each row, [n].
        options: What is done.

    Returns:
        Shape [n], fp32.
    """
    raw = logits.float()
    bend = torch.tanh(raw / options.softcap) if options.softcap else None
    values = (raw if bend is None else bend * options.softcap) * options.scale
    sums = torch.logsumexp(values, dim=1)
    is_target = targets != IGNORE
    ids = torch.where(is_target, targets, 0)[:, None]
    share = is_target.float() if weights is None else is_target * weights.float()
    smoothing, num_ids = options.label_smoothing, logits.shape[1]
    losses = sums - (1 - smoothing) * values.gather(1, ids)[:, 0] + options.z_loss * sums**2
    if smoothing:
        losses -= smoothing * values.mean(1)
    if options.writes:
        gradient = torch.exp(values - sums[:, None]) * (1 + 2 * options.z_loss * sums)[:, None]
        gradient -= smoothing / num_ids
        gradient.scatter_add_(1, ids, torch.full_like(sums, smoothing - 1)[:, None])
        gradient *= share[:, None] * (options.scale * options.unit)
        if bend is not None:
            gradient *= 1 - bend**2
        logits.copy_(gradient)
    return torch.where(is_target, losses * share, 0.0)


@cache
def _choose_score() -> RowLoss:
    """The kernel, or the plain path where Triton is not installed."""
    if not has_triton():
        return score_rows_
    from siredon.ops.linear_cross_entropy_kernels import score_rows_ as fused

    return fused


def _run(  # noqa: PLR0913 - what an op takes is a flat list
    score: RowLoss,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    token_weights: Tensor | None,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    chunk_rows, num_targets, *learns = plan
    chunk_rows = chunk_rows or choose_chunk_rows(
        len(hidden), len(weight), hidden.element_size(), learns=bool(learns[1])
    )
    softcap, scale, smoothing, z_loss = settings
    options = RowOptions(softcap, scale, smoothing, z_loss, unit_of(hidden), any(learns))
    gradients = Gradients.of(hidden, weight, (bool(learns[0]), bool(learns[1]), bool(learns[2])))
    losses = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
    room = empty_logits(hidden, weight, min(chunk_rows, len(hidden)))
    for place in split_rows(targets, num_targets, chunk_rows):
        rows = hidden[place]
        logits = multiply_(room, rows, weight, bias)
        shares = None if token_weights is None else token_weights[place]
        losses[place] = score(logits, targets[place], shares, options)
        gradients.add_(place, logits, rows, weight)
    return losses.sum(), losses, *gradients.as_outputs(hidden)


@torch.library.custom_op("siredon::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(  # noqa: PLR0913 - what an op takes is a flat list
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    token_weights: Tensor | None,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum, losses of the rows, and gradients of hidden states, weight and bias, `unit_of` times as large.

    Settings are the first four of `RowOptions`; the plan is `chunk_rows`, 0 to choose it, `num_targets`, -1 to count
    them, and for each of the three whether it has a gradient.
    """
    return _run(score_rows_, hidden, weight, targets, bias, token_weights, settings, plan)


@_linear_cross_entropy.register_kernel(GPU)
def _(*given: Any) -> tuple[Tensor, ...]:
    return _run(_choose_score(), *given)


@_linear_cross_entropy.register_fake
def _(hidden: Tensor, weight: Tensor, *given: Any) -> tuple[Tensor, ...]:
    learns = given[-1][2:]
    sums = hidden.new_empty(len(hidden), dtype=torch.float32)
    return (
        sums.new_empty(()),
        sums,
        torch.empty_like(hidden) if learns[0] else hidden.new_empty(0),
        torch.empty_like(weight, dtype=torch.float32) if learns[1] else hidden.new_empty(0),
        sums.new_empty(len(weight)) if learns[2] else hidden.new_empty(0),
    )


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Without this, PyTorch would make zeros of the weight's size for outputs that have no gradient
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[2:])
    ctx.formats = inputs[0].dtype, inputs[1].dtype, None if inputs[3] is None else inputs[3].dtype
    ctx.learns = inputs[-1][2:]
    ctx.unit = unit_of(inputs[0])


def _scale_gradients(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = [None, None, None]
    if upstream is not None:
        factor = upstream if ctx.unit == 1 else upstream / ctx.unit
        for number, gradient in enumerate(ctx.saved_tensors):
            if ctx.learns[number]:
                # Into the format of the weight at once: a copy in fp32 would be of the size of two heads
                out = torch.empty_like(gradient, dtype=ctx.formats[number])
                # A factor without dimensions would be rounded to fewer bits first
                found[number] = torch.mul(gradient, factor.view([1] * gradient.dim()), out=out)
    return found[0], found[1], None, found[2], None, None, None


_linear_cross_entropy.register_autograd(_scale_gradients, setup_context=_keep_gradients)
