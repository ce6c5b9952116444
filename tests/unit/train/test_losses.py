from __future__ import annotations

import pytest
import torch

from siredon.data.types import IGNORE
from siredon.train.losses import cross_entropy_sum, sum_by_source, target_entropies


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_sum_and_its_gradient_are_the_naive_ones(chunk_rows: int, dtype: torch.dtype):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 33).to(dtype)
    targets = torch.randint(0, 33, (2, 5))
    targets[0, 2] = targets[1, 0] = IGNORE
    naive, ours = logits.clone().double().requires_grad_(), logits.clone().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(naive.flatten(0, 1), targets.flatten(), reduction="sum")
    got = cross_entropy_sum(ours, targets, chunk_rows=chunk_rows)
    wanted.backward()
    got.backward()
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert ours.grad is not None
    assert naive.grad is not None
    assert (ours.grad.double() - naive.grad).abs().max() < (1e-6 if dtype == torch.float32 else 4e-3)


def test_no_target_is_a_loss_of_zero():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.full((3,), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("chunk_rows", [4096, 7])
def test_sums_by_source_add_up_to_the_whole_and_each_to_its_own_rows(chunk_rows: int):
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 11, 50, requires_grad=True), torch.randint(0, 50, (3, 11))
    targets[:, ::3] = IGNORE
    sources = torch.randint(0, 3, (3, 11))
    sums = sum_by_source(logits, targets, sources, 4, chunk_rows=chunk_rows)
    for number in range(4):
        own = torch.where(sources == number, targets, IGNORE)
        wanted = torch.nn.functional.cross_entropy(
            logits.double().flatten(0, 1), own.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        assert sums[0, number].item() == pytest.approx(wanted.item(), abs=1e-5)
        assert sums[1, number] == (own != IGNORE).sum()
    assert sums[:, 3].tolist() == [0, 0]
    assert not sums.requires_grad


@pytest.mark.parametrize("chunk_rows", [1024, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropies_are_those_of_the_formula_in_fp64(chunk_rows: int, dtype: torch.dtype):
    torch.manual_seed(0)
    logits = (4 * torch.randn(3, 11, 50)).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (3, 11))
    targets[:, ::3] = IGNORE
    found = target_entropies(logits, targets, chunk_rows=chunk_rows)
    logs = logits.detach().double().log_softmax(-1)
    wanted = torch.where(targets != IGNORE, -(logs.exp() * logs).sum(-1), 0.0)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found - wanted).abs().max() < 1e-5
