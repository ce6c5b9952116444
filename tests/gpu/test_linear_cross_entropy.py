"""On a GPU, at the size of a real vocabulary: no further from fp64 than head and loss one after the other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_train import LORA, config_of, metrics_of
from torch import Tensor
from torch.nn import functional

from siredon import pipeline
from siredon.hardware import forget_peak, probe_hardware, read_peak_bytes
from siredon.ops.linear_cross_entropy import IGNORE, LossOptions, linear_cross_entropy
from siredon.ops.token_statistics import token_statistics

HARDWARE = probe_hardware()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HARDWARE.is_gpu, reason="this machine has no GPU"),
]


def build(num: int, width: int, ids: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight, and targets of which a third are none."""
    torch.manual_seed(0)
    device = HARDWARE.device
    hidden = torch.randn(num, width, device=device).to(dtype)
    weight = (torch.randn(ids, width, device=device) * (2 / width**0.5)).to(dtype)
    targets = torch.randint(0, ids, (num,), device=device)
    targets[::3] = IGNORE
    targets[1], targets[2] = 0, ids - 1
    return hidden, weight, targets


def learn(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    return [each.to(dtype, copy=True).requires_grad_() for each in (hidden, weight)]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    return [
        float((a.grad.double() - b.grad).norm() / b.grad.norm()) for a, b in zip(found, truth, strict=True)
    ]


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor, options: LossOptions) -> Tensor:
    values = hidden @ weight.T
    values = values if values.dtype == torch.float64 else values.float()
    if options.softcap:
        values = torch.tanh(values / options.softcap) * options.softcap
    values = values * options.scale
    loss = functional.cross_entropy(values, targets, reduction="sum", label_smoothing=options.label_smoothing)
    return loss + options.z_loss * (torch.logsumexp(values, 1) ** 2 * (targets != IGNORE)).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "options",
    [LossOptions(), LossOptions(softcap=30.0, scale=0.9, label_smoothing=0.05, z_loss=1e-3, chunk_rows=100)],
    ids=["plain", "everything"],
)
@pytest.mark.parametrize(("num", "width", "ids"), [(1500, 256, 128_256), (301, 72, 50_257)])
def test_no_further_from_the_truth_than_the_plain_operation(
    dtype: torch.dtype, options: LossOptions, num: int, width: int, ids: int
):
    hidden, weight, targets = build(num, width, ids, dtype)
    exact, plain, mine = (learn(hidden, weight, kind) for kind in (torch.float64, dtype, dtype))
    losses = [
        plain_loss(*exact, targets, options),
        plain_loss(*plain, targets, options),
        linear_cross_entropy(*mine, targets, options=options),
    ]
    # As loss and scaler have it: a mean, and for fp16 no number too small
    factor = (512 if dtype == torch.float16 else 1) / 997
    for loss in losses:
        (loss * factor).backward()
    wanted, naive, found = (loss.item() for loss in losses)
    assert abs(found - wanted) <= abs(naive - wanted) * 1.5 + 2e-6 * abs(wanted)
    for ours, theirs in zip(errors(mine, exact), errors(plain, exact), strict=True):
        assert ours <= theirs * 1.5 + 1e-6
    # And no error that all have alike, as of a factor in few bits
    for one, truth in zip(mine, exact, strict=True):
        scale = (one.grad.double() * truth.grad).sum() / truth.grad.square().sum()
        assert abs(float(scale) - 1) < 1e-3


def test_the_logits_never_exist_together():
    hidden, weight, targets = build(8192, 128, 128_256, torch.bfloat16)
    hidden.requires_grad_()
    linear_cross_entropy(hidden[:1024], weight, targets[:1024]).backward()
    forget_peak(HARDWARE)
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(hidden, weight, targets).backward()
    # A chunk of 256 MiB; all of them in bf16 have 2 GiB
    assert read_peak_bytes(HARDWARE) - before < 400 * 2**20


def test_the_plain_path_runs_on_a_gpu_too():
    from siredon.ops.linear_cross_entropy import RowOptions, score_rows_
    from siredon.ops.linear_cross_entropy_kernels import score_rows_ as fused

    hidden, weight, targets = build(64, 64, 32_001, torch.bfloat16)
    logits = hidden @ weight.T
    options = RowOptions(5.0, 0.7, 0.1, 1e-2, 1.0, writes=True)
    first, second = logits.clone(), logits.clone()
    shares = torch.rand(64, device=logits.device)
    plain, kernel = score_rows_(first, targets, shares, options), fused(second, targets, shares, options)
    assert torch.allclose(plain, kernel, rtol=1e-5, atol=1e-5)
    assert torch.allclose(first.float(), second.float(), rtol=1e-2, atol=1e-6)


def test_it_waits_for_nothing_where_the_number_of_targets_is_known():
    hidden, weight, targets = build(512, 64, 1000, torch.bfloat16)
    hidden.requires_grad_()
    options = LossOptions(num_targets=int((targets != IGNORE).sum()), chunk_rows=128)
    linear_cross_entropy(hidden, weight, targets, options=options).backward()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        linear_cross_entropy(hidden, weight, targets, options=options).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("entropy", [False, True])
def test_statistics_are_no_further_from_the_truth_than_the_plain_operation(entropy: bool):
    hidden, weight, targets = build(301, 128, 128_256, torch.bfloat16)
    exact, plain, mine = (
        learn(hidden, weight, kind) for kind in (torch.float64, torch.bfloat16, torch.bfloat16)
    )
    upstream = torch.randn(301, device=hidden.device)
    is_target = targets != IGNORE
    results = []
    for one in (exact, plain):
        values = one[0] @ one[1].T
        logs = torch.log_softmax(values if values.dtype == torch.float64 else values.float(), 1)
        found = torch.where(is_target, logs.gather(1, targets.clamp(min=0)[:, None])[:, 0], 0)
        results.append((found, torch.where(is_target, -(logs.exp() * logs).sum(1), 0)))
    results.append(token_statistics(*mine, targets, entropy=entropy))
    for log_probs, spread in results:
        goal = log_probs @ upstream.to(log_probs.dtype)
        if entropy:
            goal = goal + spread @ upstream.flip(0).to(spread.dtype)
        goal.backward()
    wanted, naive, found = (result[0].double() for result in results)
    assert (found - wanted).norm() <= (naive - wanted).norm() * 1.5 + 1e-6 * wanted.norm()
    for ours, theirs in zip(errors(mine, exact), errors(plain, exact), strict=True):
        assert ours <= theirs * 1.5 + 1e-6


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "keys", [{"bf16": True}, {"bf16": False, "fp16": True}, {"bf16": False, "tf32": False}]
)
def test_a_run_takes_chunks_by_itself_and_has_the_losses_of_logits(
    write_config: Any,
    tmp_path: Path,
    adapter: dict[str, Any],
    keys: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
):
    found = []
    for name, chunked in (("chunks", {}), ("logits", {"chunked_cross_entropy": False})):
        output = str(tmp_path / name)
        settings = {"max_steps": 4, "learning_rate": 1e-3, "val_set_size": 4, "eval_steps": 2}
        path = write_config(f"{name}.yml", output_dir=output, **settings, **adapter, **keys, **chunked)
        pipeline.train(config_of(path))
        rows = metrics_of(tmp_path / name)
        found.append([row[key] for row in rows for key in ("loss", "eval_loss") if key in row])
        assert len(found[-1]) >= 6
    assert capsys.readouterr().err.count("loss: chunked linear cross-entropy, ") == 1
    exact = keys == {"bf16": False, "tf32": False}
    assert found[0] == pytest.approx(found[1], rel=1e-4 if exact else 5e-3)
