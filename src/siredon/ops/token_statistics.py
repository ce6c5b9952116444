"""Log-probabilities of targets, and entropies, from hidden states and a head: the logits of all rows never exist
together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

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
)
from siredon.ops.linear_cross_entropy import PLAIN, LossOptions


@dataclass(frozen=True)
class RowGradients:
    """What the gradient of a chunk's logits is made of, each of shape [n], fp32.

    Args:
        log_sums: The logsumexp of each row.
        entropies: The entropy of each row.
        upstream: Gradients of the log-probabilities.
        entropy_upstream: Those of the entropies, if they have any.
    """

    log_sums: Tensor
    entropies: Tensor
    upstream: Tensor
    entropy_upstream: Tensor | None


@dataclass(frozen=True)
class RowPasses:
    """The two passes over a chunk of logits [n, V]: kernels, or the plain path.

    Args:
        read: Log-probabilities, entropies if wanted, and logsumexps.
        write_: Logits become their gradients.
    """

    read: Callable[..., tuple[Tensor, Tensor, Tensor]]
    write_: Callable[[Tensor, Tensor, RowGradients, float, float], None]


#: What `measure_tokens` can tell beside log-probabilities.
Measure = Literal["entropies", "collisions"]


@dataclass(frozen=True)
class TokenStatistics:
    """What is told of N rows by `measure_tokens`; each of shape [N], fp32, and 0 where there is no target.

    Args:
        log_probs: Log-probability of each target.
        entropies: Entropy of the softmax that it is drawn from, in nats; None if it was not wanted.
        collisions: Log-probability of two draws from it being the same token, without gradient; None as before.
    """

    log_probs: Tensor
    entropies: Tensor | None
    collisions: Tensor | None


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    options: LossOptions = PLAIN,
    bias: Tensor | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target, and entropy of the softmax that it is drawn from.

    With `p = log_softmax(scale * softcap * tanh((hidden @ weight.T + bias) / softcap).float())`, equals
    `p[i, targets[i]]` and `-(p.exp() * p).sum(1)`; both are 0 where there is no target.  The logits are made again in
    the backward pass.

    Args:
        hidden: Shape [N, H]: fp32, bf16 or fp16; under autocast it is cast, as for a linear layer.
        weight: Of the head, [V, H], in the same format.
        targets: Ids, [N]; -100 is no target, and its row does not go through the head.
        options: `softcap`, `scale`, `chunk_rows` and `num_targets`; the others are for a loss.
        bias: Of the head, [V].
        entropy: Whether entropies are wanted.

    Returns:
        Log-probabilities [N] and entropies [N], both fp32 and with gradients for hidden states, weight and bias.

    Raises:
        ValueError: Hidden states and weights are in different formats, or there is not one target for each row.
    """
    wanted: tuple[Measure, ...] = ("entropies",) if entropy else ()
    found = measure_tokens(hidden, weight, targets, wanted, options=options, bias=bias)
    return found.log_probs, found.entropies


def collision_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    options: LossOptions = PLAIN,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and of two draws from its softmax being the same token.

    With `p` as in `token_statistics`, the second equals `logsumexp(2 * p, 1)`, the logarithm of the sum of squared
    probabilities.  That is `logsumexp(2 * z) - 2 * logsumexp(z)` of logits z, so it takes a second pass over the head,
    without a backward one.

    Args:
        hidden: Shape [N, H], as for `token_statistics`.
        weight: Of the head, [V, H], in the same format.
        targets: Ids, [N]; -100 is no target, where both are 0.
        options: `softcap`, `scale`, `chunk_rows` and `num_targets`.
        bias: Of the head, [V].

    Returns:
        Log-probabilities [N], with gradients, and logarithms of squared sums [N], without; both fp32.

    Raises:
        ValueError: As `token_statistics`.
    """
    wanted: tuple[Measure, ...] = ("collisions",)
    found = measure_tokens(hidden, weight, targets, wanted, options=options, bias=bias)
    assert found.collisions is not None
    return found.log_probs, found.collisions


def measure_tokens(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    wanted: Collection[Measure] = (),
    *,
    options: LossOptions = PLAIN,
    bias: Tensor | None = None,
) -> TokenStatistics:
    """What `token_statistics` and `collision_statistics` tell, of the same pass.

    Args:
        hidden: Shape [N, H], as for `token_statistics`.
        weight: Of the head, [V, H], in the same format.
        targets: Ids, [N]; -100 is no target.
        wanted: What is told beside log-probabilities; for collisions the head is gone through once more.
        options: `softcap`, `scale`, `chunk_rows` and `num_targets`.
        bias: Of the head, [V].

    Raises:
        ValueError: As `token_statistics`.
    """
    hidden, weight, bias = match_formats(hidden, weight, bias, targets)
    plan = [options.chunk_rows or 0, -1 if options.num_targets is None else options.num_targets, False]
    entropy, squares = "entropies" in wanted, None
    with torch.autocast(hidden.device.type, enabled=False):
        log_probs, entropies, sums = _token_statistics(
            hidden, weight, targets, bias, [options.softcap, options.scale], [*plan[:2], entropy]
        )
        if "collisions" in wanted:
            with torch.no_grad():
                twice = [options.softcap, 2 * options.scale]
                _, _, squares = _token_statistics(hidden, weight, targets, bias, twice, plan)
    return TokenStatistics(
        log_probs, entropies if entropy else None, None if squares is None else squares - 2 * sums
    )


def read_rows(
    logits: Tensor, targets: Tensor, softcap: float, scale: float, *, measures: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The plain path: log-probabilities, entropies if wanted, and logsumexps of logits [n, V], fp32."""
    values = logits.float()
    if softcap:
        values = torch.tanh(values / softcap) * softcap
    values = values * scale
    sums = torch.logsumexp(values, dim=1)
    log_probs = values - sums[:, None]
    is_target = targets != IGNORE
    found = log_probs.gather(1, torch.where(is_target, targets, 0)[:, None])[:, 0]
    entropies = -(log_probs.exp() * log_probs).sum(1) if measures else sums.new_empty(0)
    return torch.where(is_target, found, 0.0), entropies, sums


def write_rows_(logits: Tensor, targets: Tensor, given: RowGradients, softcap: float, scale: float) -> None:
    """The plain path: logits [n, V] become their gradients."""
    raw = logits.float()
    bend = torch.tanh(raw / softcap) if softcap else None
    log_probs = (raw if bend is None else bend * softcap) * scale - given.log_sums[:, None]
    probs = log_probs.exp()
    is_target = targets != IGNORE
    upstream = torch.where(is_target, given.upstream, 0.0)
    gradient = -probs * upstream[:, None]
    gradient.scatter_add_(1, torch.where(is_target, targets, 0)[:, None], upstream[:, None])
    if given.entropy_upstream is not None:
        gradient -= given.entropy_upstream[:, None] * probs * (log_probs + given.entropies[:, None])
    gradient *= scale
    if bend is not None:
        gradient *= 1 - bend**2
    logits.copy_(gradient)


_PLAIN = RowPasses(read_rows, write_rows_)


@cache
def _choose_passes() -> RowPasses:
    """The kernels, or the plain path where Triton is not installed."""
    if not has_triton():
        return _PLAIN
    from siredon.ops.linear_cross_entropy_kernels import read_statistics, write_gradients_

    return RowPasses(read_statistics, write_gradients_)


def _read(  # noqa: PLR0913 - what an op takes is a flat list
    passes: RowPasses,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    chunk_rows, num_targets, measures = plan
    chunk_rows = chunk_rows or choose_chunk_rows(len(hidden), len(weight), hidden.element_size())
    zeros = torch.zeros(3, len(hidden), dtype=torch.float32, device=hidden.device)
    log_probs, entropies, sums = (row.clone() for row in zeros)
    room = empty_logits(hidden, weight, min(chunk_rows, len(hidden)))
    for place in split_rows(targets, num_targets, chunk_rows):
        logits = multiply_(room, hidden[place], weight, bias)
        log_probs[place], found, sums[place] = passes.read(
            logits, targets[place], settings[0], settings[1], measures=bool(measures)
        )
        if measures:
            entropies[place] = found
    return log_probs, entropies, sums


def _differentiate(  # noqa: PLR0913 - what an op takes is a flat list
    passes: RowPasses,
    upstream: Tensor,
    entropy_upstream: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    entropies: Tensor,
    sums: Tensor,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    chunk_rows, num_targets, *learns = plan
    chunk_rows = chunk_rows or choose_chunk_rows(len(hidden), len(weight), hidden.element_size())
    gradients = Gradients.of(hidden, weight, (bool(learns[0]), bool(learns[1]), bool(learns[2])))
    room = empty_logits(hidden, weight, min(chunk_rows, len(hidden)))
    for place in split_rows(targets, num_targets, chunk_rows):
        rows = hidden[place]
        logits = multiply_(room, rows, weight, bias)
        second = None if entropy_upstream is None else entropy_upstream[place]
        given = RowGradients(sums[place], entropies[place], upstream[place], second)
        passes.write_(logits, targets[place], given, settings[0], settings[1])
        gradients.add_(place, logits, rows, weight)
    return gradients.as_outputs(hidden)


@torch.library.custom_op("siredon::token_statistics", mutates_args=())
def _token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies or zeros, and logsumexps, each [N].

    Settings are cap and scale; the plan is `chunk_rows`, 0 to choose it, `num_targets`, -1 to count them, and whether
    entropies are wanted.
    """
    return _read(_PLAIN, hidden, weight, targets, bias, settings, plan)


@_token_statistics.register_kernel(GPU)
def _(*given: Any) -> tuple[Tensor, ...]:
    return _read(_choose_passes(), *given)


@_token_statistics.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
    first, second, third = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
    return first, second, third


@torch.library.custom_op("siredon::token_statistics_backward", mutates_args=())
def _token_statistics_backward(  # noqa: PLR0913 - what an op takes is a flat list
    upstream: Tensor,
    entropy_upstream: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    entropies: Tensor,
    sums: Tensor,
    settings: Sequence[float],
    plan: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden states, weight and bias; the last two in fp32, and each empty if it is not wanted."""
    given = (upstream, entropy_upstream, hidden, weight, targets, bias, entropies, sums, settings, plan)
    return _differentiate(_PLAIN, *given)


@_token_statistics_backward.register_kernel(GPU)
def _(*given: Any) -> tuple[Tensor, ...]:
    return _differentiate(_choose_passes(), *given)


@_token_statistics_backward.register_fake
def _(upstream: Tensor, _: Tensor | None, hidden: Tensor, weight: Tensor, *given: Any) -> tuple[Tensor, ...]:
    learns = given[-1][2:]
    return (
        torch.empty_like(hidden) if learns[0] else hidden.new_empty(0),
        torch.empty_like(weight, dtype=torch.float32) if learns[1] else hidden.new_empty(0),
        upstream.new_empty(len(weight)) if learns[2] else hidden.new_empty(0),
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, bias, settings, plan = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1 if not plan[2] else 2 :])
    ctx.save_for_backward(hidden, weight, targets, bias, output[1], output[2])
    ctx.settings, ctx.plan = settings, plan


def _backward(ctx: Any, upstream: Tensor | None, second: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    hidden, weight, targets, bias, entropies, sums = ctx.saved_tensors
    if upstream is None:
        if second is None:
            return (None,) * 6
        upstream = torch.zeros_like(second)
    learns = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]]
    gradients = _token_statistics_backward(
        upstream.contiguous(),
        None if second is None else second.contiguous(),
        hidden,
        weight,
        targets,
        bias,
        entropies,
        sums,
        ctx.settings,
        [*ctx.plan[:2], *learns],
    )
    formats = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
    first, middle, last = (
        value.to(kind) if learn else None
        for value, kind, learn in zip(gradients, formats, learns, strict=True)
    )
    return first, middle, None, last, None, None


_token_statistics.register_autograd(_backward, setup_context=_keep_inputs)
