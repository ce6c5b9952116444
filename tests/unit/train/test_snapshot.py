"""Copies of what a checkpoint holds."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.train.snapshot import Worker, collect_weights, copy_to_ram, count_bytes


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_a_copy_stays_as_it_is_when_the_original_is_trained_on_and_is_saved_alike():
    from torchao.optim.subclass_8bit import OptimState8bit

    weight = torch.nn.Parameter(torch.randn(8, 256))
    optimizer = torch.optim.AdamW([weight], betas=(0.8, 0.9))
    weight.grad = torch.randn(8, 256)
    optimizer.step()
    state = {**optimizer.state_dict(), "few_bits": OptimState8bit.zeros((8, 256)), "two": [weight, weight]}
    there = saved(state)
    copied = copy_to_ram(state)
    before = copy.deepcopy(copied["two"][0])
    assert len(saved(copied)) == pytest.approx(len(there), abs=256)
    assert copied["two"][0] is copied["two"][1]
    optimizer.step()
    state["few_bits"].codes.fill_(3)
    state["state"][0]["exp_avg"].zero_()
    assert torch.equal(copied["two"][0], before)
    assert not torch.equal(weight, before)
    assert copied["few_bits"].codes.sum() == 0
    assert copied["state"][0]["exp_avg"].abs().sum() > 0
    assert copied["param_groups"][0]["betas"] == (0.8, 0.9)


def test_shared_bytes_are_counted_once():
    one = torch.zeros(10)
    assert count_bytes({"a": one, "b": [one, torch.zeros(3, dtype=torch.int8)]}) == 43


def test_of_an_adapter_only_what_is_its_own_is_copied():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        build_model(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])
    )
    names = collect_weights(model)
    assert all(".lora_" in name or "modules_to_save" in name for name in names)
    assert len(names) == 2 * 2 + 5


def test_saves_keep_their_order_and_a_failure_is_raised_once():
    worker, done = Worker(), []
    for number in range(5):
        worker.start(lambda number=number: done.append(number))
    worker.finish()
    assert done == [0, 1, 2, 3, 4]
    worker.start(lambda: 1 / 0)
    worker.wait()
    with pytest.raises(ZeroDivisionError):
        worker.check()
    worker.finish()
