"""Against the plain formula in fp64: the op, its plain path, and its kernel in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from siredon.ops.head_rows import choose_chunk_rows
from siredon.ops.linear_cross_entropy import (
    IGNORE,
    LossOptions,
    RowOptions,
    linear_cross_entropy,
    linear_cross_entropy_rows,
    score_rows_,
)
from siredon.ops.token_statistics import (
    RowGradients,
    collision_statistics,
    measure_tokens,
    read_rows,
    token_statistics,
    write_rows_,
)

EVERYTHING = LossOptions(softcap=5.0, scale=0.7, label_smoothing=0.1, z_loss=1e-2)


def build(num: int = 11, width: int = 24, ids: int = 53, *, masked: str = "some", seed: int = 0) -> Any:
    """Hidden states, weight and bias in fp64, targets, weights of the rows."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(num, width).double(), (torch.randn(ids, width) / 3).double()
    targets = torch.randint(0, ids, (num,))
    targets[0], targets[-1] = ids - 1, 0
    if masked == "some":
        targets[torch.arange(num) % 3 == 1] = IGNORE
    elif masked == "all":
        targets[:] = IGNORE
    return hidden, weight, torch.randn(ids).double(), targets, torch.rand(num).double() + 0.5


def true_values(hidden: Tensor, weight: Tensor, bias: Tensor | None, options: LossOptions) -> Tensor:
    values = functional.linear(hidden, weight, bias)
    if options.softcap:
        values = torch.tanh(values / options.softcap) * options.softcap
    return values * options.scale


def true_losses(values: Tensor, targets: Tensor, shares: Tensor | None, options: LossOptions) -> Tensor:
    losses = functional.cross_entropy(
        values, targets, reduction="none", ignore_index=IGNORE, label_smoothing=options.label_smoothing
    )
    losses = losses + options.z_loss * torch.logsumexp(values, 1) ** 2 * (targets != IGNORE)
    return losses if shares is None else losses * shares


def leaves(*tensors: Tensor | None, dtype: torch.dtype = torch.float32) -> list[Any]:
    return [None if each is None else each.detach().to(dtype, copy=True).requires_grad_() for each in tensors]


def compare(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    a, b = a.detach(), b.detach()
    scale = b.abs().max().clamp(min=1e-30)
    return float((a.double() - b.double()).abs().max() / scale) if b.any() else float(a.abs().max())


@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("chunk_rows", [None, 1, 4, 11])
@pytest.mark.parametrize("options", [LossOptions(), EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("counts", [False, True])
def test_loss_and_gradients_are_those_of_the_formula(
    masked: str, chunk_rows: int | None, options: LossOptions, counts: bool
):
    hidden, weight, bias, targets, shares = build(masked=masked)
    if options is not EVERYTHING:
        bias = shares = None
    options = replace(options, chunk_rows=chunk_rows)
    if counts:
        options = replace(options, num_targets=int((targets != IGNORE).sum()))
    exact = leaves(hidden, weight, bias, dtype=torch.float64)
    wanted = true_losses(true_values(*exact, options), targets, shares, options).sum()
    (wanted * 0.37).backward()
    mine = leaves(hidden, weight, bias)
    found = linear_cross_entropy(
        mine[0], mine[1], targets, options=options, bias=mine[2], token_weights=shares
    )
    (found * 0.37).backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for ours, truth in zip(mine, exact, strict=True):
        if ours is not None:
            assert compare(ours.grad, truth.grad) < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        LossOptions(softcap=2.0),
        LossOptions(scale=0.1),
        LossOptions(label_smoothing=0.3),
        LossOptions(z_loss=0.1),
        EVERYTHING,
    ],
)
@pytest.mark.parametrize("ids", [2, 64, 53, 8195])
@pytest.mark.parametrize("writes", [False, True])
def test_the_kernel_is_the_formula(options: LossOptions, ids: int, writes: bool):
    from siredon.ops.linear_cross_entropy_kernels import score_rows_ as fused

    torch.manual_seed(ids)
    logits = torch.randn(4, ids) * 4
    # Above all that went before, so that sums so far are scaled anew
    logits[:2, -1] = logits.max() + 2
    targets, shares = torch.tensor([0, ids - 1, IGNORE, ids // 2]), torch.rand(4)
    exact = logits.double().requires_grad_()
    values = exact if not options.softcap else torch.tanh(exact / options.softcap) * options.softcap
    wanted = true_losses(values * options.scale, targets, shares.double(), options)
    wanted.sum().backward()
    rows = RowOptions(
        options.softcap, options.scale, options.label_smoothing, options.z_loss, unit=4.0, writes=writes
    )
    for score in (fused, score_rows_):
        # Rows that are a view of wider ones, as in the op
        mine = torch.full((4, ids + 3), 7.0)
        mine[:, :ids] = logits
        found = score(mine[:, :ids], targets, shares, rows)
        assert compare(found, wanted) < 1e-6
        assert mine[:, ids:].eq(7).all()
        if not writes:
            assert torch.equal(mine[:, :ids], logits)
        else:
            # Where the cap is reached, its slope is a small difference
            assert compare(mine[:, :ids] / 4, exact.grad) < (1e-5 if options.softcap else 2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fewer_bits_lose_no_more_than_the_plain_operation(dtype: torch.dtype):
    hidden, weight, _, targets, _ = build(96, 64, 300)
    hidden, weight = hidden.to(dtype).double(), weight.to(dtype).double()
    exact, plain, mine = (leaves(hidden, weight, dtype=kind) for kind in (torch.float64, dtype, dtype))
    wanted = functional.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    naive = functional.cross_entropy((plain[0] @ plain[1].T).float(), targets, reduction="sum")
    found = linear_cross_entropy(mine[0], mine[1], targets, options=LossOptions(chunk_rows=40))
    # One that is no power of two, so that scaling rounds
    for loss in (wanted, naive, found):
        (loss / 61).backward()
    assert abs(found - wanted) <= abs(naive - wanted) * 1.5 + 1e-6 * abs(wanted)
    for ours, theirs, truth in zip(mine, plain, exact, strict=True):
        assert ours.grad.dtype == dtype
        scale = (ours.grad.double() * truth.grad).sum() / truth.grad.square().sum()
        assert abs(scale - 1) < 1e-3
        error, other = ((each.grad.double() - truth.grad).norm() for each in (ours, theirs))
        assert error <= other * 1.5


def test_rare_tokens_have_gradients_in_fp16():
    """Probabilities of 2^-17 and below are hardly numbers of fp16."""
    hidden, weight, _, targets, _ = build(8, 16, 4000)
    hidden[:] = hidden / 10 + 1
    weight[:] = weight * 0.01
    weight[0] += 0.85
    exact, mine = leaves(hidden, weight, dtype=torch.float64), leaves(hidden, weight, dtype=torch.float16)
    # As a loss scaler does
    (512 * functional.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")).backward()
    (512 * linear_cross_entropy(mine[0], mine[1], targets)).backward()
    never = torch.ones(4000, dtype=torch.bool)
    never[targets.clamp(min=0)] = False
    assert compare(mine[1].grad[never], exact[1].grad[never]) < 4e-3


@pytest.mark.parametrize("learned", ["hidden", "weight", "nothing"])
def test_what_is_not_learned_costs_no_work(learned: str, monkeypatch: pytest.MonkeyPatch):
    from siredon.ops import head_rows

    calls = []
    monkeypatch.setattr(head_rows, "add_product_", lambda *_: calls.append("weight"))
    monkeypatch.setattr(
        "siredon.ops.linear_cross_entropy.score_rows_",
        lambda logits, targets, weights, options: (
            calls.append(options.writes),
            score_rows_(logits, targets, weights, options),
        )[1],
    )
    hidden, weight, _, targets, _ = build()
    hidden, weight = hidden.float(), weight.float()
    hidden.requires_grad_(learned == "hidden")
    weight.requires_grad_(learned == "weight")
    found = linear_cross_entropy(hidden, weight, targets)
    assert found.requires_grad == (learned != "nothing")
    assert calls == {"hidden": [True], "weight": [True, "weight"], "nothing": [False]}[learned]


def test_without_gradients_only_the_loss_is_computed():
    hidden, weight, _, targets, _ = build()
    mine = leaves(hidden, weight)
    with torch.no_grad():
        found, losses = linear_cross_entropy_rows(mine[0], mine[1], targets)
    assert not found.requires_grad
    wanted = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert compare(losses, wanted) < 1e-6
    assert losses.sum().item() == pytest.approx(found.item())


def test_rows_without_a_target_do_not_go_through_the_head():
    hidden, weight, _, targets, _ = build()
    mine = leaves(hidden, weight)
    with torch.no_grad():
        mine[0][targets == IGNORE] = float("nan")
    found = linear_cross_entropy(mine[0], mine[1], targets)
    found.backward()
    assert found.isfinite()
    assert not mine[0].grad[targets == IGNORE].any()
    assert mine[1].grad.isfinite().all()


def test_a_tied_head_has_the_sum_of_both_gradients():
    _, weight, _, targets, _ = build()
    exact, mine = leaves(weight, dtype=torch.float64)[0], leaves(weight)[0]
    ids = torch.arange(11)
    functional.cross_entropy(exact[ids] @ exact.T, targets, reduction="sum").backward()
    linear_cross_entropy(mine[ids], mine, targets).backward()
    assert compare(mine.grad, exact.grad) < 2e-6


def test_an_id_that_is_none_is_seen():
    from siredon.ops.linear_cross_entropy_kernels import score_rows_ as fused

    rows = RowOptions(0.0, 1.0, 0.0, 0.0, 1.0, writes=False)
    found = fused(torch.randn(3, 10), torch.tensor([10, -5, 9]), None, rows)
    assert found.isnan().tolist() == [True, True, False]


def test_what_does_not_fit_together_is_refused_unless_autocast_makes_it_fit():
    hidden, weight, _, targets, _ = build()
    with pytest.raises(ValueError, match="bfloat16"):
        linear_cross_entropy(hidden.bfloat16(), weight.float(), targets)
    for wrong in (targets[1:], targets[:, None]):
        with pytest.raises(ValueError, match="targets of shape"):
            linear_cross_entropy(hidden, weight, wrong)
    mine = leaves(hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(mine[0], mine[1], targets)
    found.backward()
    assert mine[0].grad.dtype == mine[1].grad.dtype == torch.float32
    wanted = functional.cross_entropy(
        (hidden.bfloat16() @ weight.bfloat16().T).float(), targets, reduction="sum"
    )
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_pytorch_accepts_both_ops():
    from siredon.ops.linear_cross_entropy import _linear_cross_entropy
    from siredon.ops.token_statistics import _token_statistics

    hidden, weight, bias, targets, shares = build()
    mine = leaves(hidden, weight, bias)
    torch.library.opcheck(
        _linear_cross_entropy,
        (mine[0], mine[1], targets, mine[2], shares.float(), [5.0, 1.0, 0.1, 0.1], [4, -1, 1, 1, 1]),
    )
    torch.library.opcheck(_token_statistics, (mine[0], mine[1], targets, mine[2], [5.0, 1.0], [4, -1, 1]))


def test_compilation_sees_one_op():
    hidden, weight, _, targets, _ = build()
    mine, compiled = leaves(hidden, weight), leaves(hidden, weight)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden * 2, weight, targets, options=LossOptions(chunk_rows=4))

    loss(*mine).backward()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(*compiled).backward()
    assert torch.equal(mine[0].grad, compiled[0].grad)
    assert torch.equal(mine[1].grad, compiled[1].grad)


@pytest.mark.parametrize(
    ("num_rows", "num_ids", "wanted"),
    [
        (8192, 128_256, 1024),
        (1500, 128_256, 768),
        (8192, 32_000, 4096),
        (10, 128_256, 128),
        (0, 100, 1),
        (9000, 50_000, 2304),
    ],
)
def test_chunks_are_of_a_good_and_equal_size(num_rows: int, num_ids: int, wanted: int):
    assert choose_chunk_rows(num_rows, num_ids, 2) == wanted


@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("options", [LossOptions(chunk_rows=4), replace(EVERYTHING, chunk_rows=5)])
@pytest.mark.parametrize("entropy", [False, True])
def test_statistics_and_their_gradients_are_those_of_the_formula(
    masked: str, options: LossOptions, entropy: bool
):
    hidden, weight, bias, targets, upstream = build(masked=masked)
    exact, mine = leaves(hidden, weight, bias, dtype=torch.float64), leaves(hidden, weight, bias)
    logs = torch.log_softmax(true_values(*exact, options), 1)
    is_target = targets != IGNORE
    wanted = torch.where(is_target, logs.gather(1, targets.clamp(min=0)[:, None])[:, 0], 0)
    spread = torch.where(is_target, -(logs.exp() * logs).sum(1), 0)
    found, entropies = token_statistics(
        mine[0], mine[1], targets, options=options, bias=mine[2], entropy=entropy
    )
    assert compare(found, wanted) < 1e-6
    goal, ours = wanted @ upstream, found @ upstream.float()
    if entropy:
        assert entropies is not None
        assert compare(entropies, spread) < 2e-6
        goal, ours = goal + spread @ upstream.flip(0), ours + entropies @ upstream.flip(0).float()
    else:
        assert entropies is None
    goal.backward()
    ours.backward()
    for mine_, truth in zip(mine, exact, strict=True):
        assert compare(mine_.grad, truth.grad) < 2e-6


@pytest.mark.parametrize("masked", ["none", "some", "all"])
@pytest.mark.parametrize("options", [LossOptions(chunk_rows=4), replace(EVERYTHING, chunk_rows=5)])
def test_collisions_are_the_sum_of_squared_probabilities(masked: str, options: LossOptions):
    hidden, weight, bias, targets, upstream = build(masked=masked)
    exact, mine = leaves(hidden, weight, bias, dtype=torch.float64), leaves(hidden, weight, bias)
    probs = torch.softmax(true_values(*exact, options), 1)
    wanted = torch.where(targets != IGNORE, probs.square().sum(1).log(), 0)
    log_probs, collisions = collision_statistics(mine[0], mine[1], targets, options=options, bias=mine[2])
    assert compare(collisions, wanted) < 2e-6
    assert not collisions.requires_grad
    plain = leaves(hidden, weight, bias)
    alone, _ = token_statistics(plain[0], plain[1], targets, options=options, bias=plain[2])
    assert torch.equal(log_probs, alone)
    for found in (log_probs, alone):
        (found @ upstream.float()).backward()
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in zip(mine, plain, strict=True))


@pytest.mark.parametrize("masked", ["none", "some", "all"])
def test_what_is_measured_beside_log_probabilities_moves_them_by_no_bit(masked: str):
    """Nor their gradients; entropies and collisions together are those of each alone."""
    hidden, weight, bias, targets, upstream = build(masked=masked)
    options, found = replace(EVERYTHING, chunk_rows=5), {}
    for wanted in ((), ("entropies",), ("collisions",), ("entropies", "collisions")):
        mine = leaves(hidden, weight, bias)
        each = measure_tokens(mine[0], mine[1], targets, wanted, options=options, bias=mine[2])
        (each.log_probs @ upstream.float()).backward()
        found[wanted] = (each, [tensor.grad for tensor in mine])
    plain, gradients = found[()]
    assert plain.entropies is None
    assert plain.collisions is None
    for each, others in found.values():
        assert torch.equal(each.log_probs, plain.log_probs)
        assert all(torch.equal(one, other) for one, other in zip(others, gradients, strict=True))
    both = found["entropies", "collisions"][0]
    assert torch.equal(both.entropies, found["entropies",][0].entropies)
    assert torch.equal(both.collisions, found["collisions",][0].collisions)


@pytest.mark.parametrize("ids", [1, 53, 1030, 8195])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("measures", [False, True])
def test_the_kernels_of_the_statistics_are_the_plain_path(ids: int, softcap: float, measures: bool):
    from siredon.ops.linear_cross_entropy_kernels import read_statistics, write_gradients_

    torch.manual_seed(ids)
    logits, targets = torch.randn(4, ids) * 4 + 20, torch.tensor([0, ids - 1, IGNORE, ids // 2])
    logits[:2, -1] = logits.max() + 2
    plain, fused = (
        read(logits, targets, softcap, 0.7, measures=measures) for read in (read_rows, read_statistics)
    )
    for one, other in zip(fused, plain, strict=True):
        assert one.shape == other.shape
        assert not one.numel() or (one - other).abs().max() < 1e-5
    entropies = plain[1] if measures else plain[2]
    given = RowGradients(plain[2], entropies, torch.randn(4), torch.randn(4) if measures else None)
    first, second = logits.clone(), logits.clone()
    write_rows_(first, targets, given, softcap, 0.7)
    write_gradients_(second, targets, given, softcap, 0.7)
    assert (first - second).abs().max() < 1e-6
