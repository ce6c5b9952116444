from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import build_model

from siredon.errors import CheckpointError
from siredon.model.relora import (
    RELORA,
    begin_anew_,
    build_chance,
    collect_whole,
    list_base_weights,
    list_lora_weights,
    merge_,
    prune_,
    read_base_,
)

IDS = torch.arange(24).reshape(2, 12)


def build_gpt2() -> Any:
    """Its layers hold their weight transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32))


def adapt(model: Any, **options: Any) -> Any:
    """LoRA whose both matrices are random, so that it changes the model."""
    from peft import LoraConfig, get_peft_model

    fan = model.config.model_type == "gpt2"
    config = LoraConfig(
        r=4, lora_alpha=12, target_modules="all-linear", fan_in_fan_out=fan, task_type="CAUSAL_LM", **options
    )
    adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    for weight in list_lora_weights(model):
        torch.nn.init.normal_(weight, std=0.1)
    return adapted.eval()


@pytest.mark.parametrize("in_ram", [False, True], ids=["device", "ram"])
@pytest.mark.parametrize("build", [build_model, build_gpt2], ids=["llama", "gpt2"])
def test_merging_and_beginning_anew_changes_no_logit(build: Callable[[], Any], in_ram: bool):
    base = build()
    untouched = base(IDS).logits
    model = adapt(base, use_rslora=True)
    before = model(IDS).logits
    merge_(base, in_ram=in_ram)
    begin_anew_(base, seed=7, restart=1)
    after = model(IDS).logits
    assert (before - untouched).abs().max() > 0.1
    assert (before - after).abs().max() < 1e-5
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, after)


@pytest.mark.parametrize("build", [build_model, build_gpt2], ids=["llama", "gpt2"])
def test_the_whole_model_is_what_peft_merges(build: Callable[[], Any]):
    base = build()
    model = adapt(base)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    whole = collect_whole(base)
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())
    merged = model.merge_and_unload().state_dict()
    assert whole.keys() == merged.keys()
    assert max((whole[name] - merged[name]).abs().max().item() for name in merged) < 1e-6


def test_what_is_trained_in_full_is_in_the_whole_model_in_its_format():
    base = build_model(tied=False, dtype=torch.bfloat16)
    adapt(base, modules_to_save=["lm_head"])
    head = base.lm_head.modules_to_save["default"].float()
    with torch.no_grad():
        head.weight.fill_(0.125)
    whole = collect_whole(base)
    assert whole["lm_head.weight"].dtype == torch.bfloat16
    assert (whole["lm_head.weight"] == 0.125).all()


def test_a_merge_into_bfloat16_rounds_once():
    base = build_model(dtype=torch.bfloat16)
    adapt(base)
    layer = base.model.layers[0].mlp.up_proj
    weights = [part["default"].weight.double() for part in (layer.lora_B, layer.lora_A)]
    exact = layer.base_layer.weight.double() + 3.0 * weights[0] @ weights[1]
    merge_(base, in_ram=False)
    wrong = (layer.base_layer.weight.double() - exact).abs()
    # Half a unit in the last of 8 binary places, and what fp32 adds
    assert (wrong <= exact.abs() * 2**-8 + 1e-6).all()


def test_start_values_follow_from_seed_and_restart():
    base = build_model()
    adapt(base)

    def begin(seed: int, restart: int) -> list[torch.Tensor]:
        torch.manual_seed(torch.randint(1000, (1,)).item())
        begin_anew_(base, seed=seed, restart=restart)
        return [weight.clone() for weight in list_lora_weights(base)]

    one, same, other, later = begin(1, 1), begin(1, 1), begin(2, 1), begin(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], later[0])
    # A as PyTorch begins a linear layer, within 1 / sqrt(inputs); B nothing
    assert 0.95 / 8 < one[0].abs().max() <= 1 / 8
    assert not one[1].any()


def test_beginning_anew_takes_no_random_number_of_the_run():
    base = build_model()
    adapt(base)
    state = torch.get_rng_state()
    begin_anew_(base, seed=1, restart=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def stepped() -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(10, 30)), torch.nn.Parameter(torch.randn(7))]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    return optimizer, weights


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 1.0])
def test_the_smallest_values_are_cleared_and_no_others(stepped: Any, ratio: float):
    optimizer, (pruned, kept) = stepped
    before = {name: value.clone() for name, value in optimizer.state[pruned].items()}
    other = optimizer.state[kept]["exp_avg"].clone()
    prune_(optimizer, [pruned], "magnitude", ratio, chance=build_chance(0, 1))
    size = before["exp_avg"].abs().flatten()
    order = sorted(range(300), key=lambda place: size[place].item())
    for name in ("exp_avg", "exp_avg_sq"):
        expected = before[name].flatten().clone()
        expected[order[: int(ratio * 300)]] = 0
        assert torch.equal(optimizer.state[pruned][name].flatten(), expected)
    assert optimizer.state[pruned]["step"] == before["step"]
    assert torch.equal(optimizer.state[kept]["exp_avg"], other)


def test_random_values_are_cleared_alike_on_every_rank(stepped: Any):
    optimizer, (weight, _) = stepped
    before = optimizer.state[weight]["exp_avg"].clone()
    prune_(optimizer, [weight], "random", 0.7, chance=build_chance(5, 2))
    first = optimizer.state[weight]["exp_avg"].clone()
    optimizer.state[weight]["exp_avg"].copy_(before)
    prune_(optimizer, [weight], "random", 0.7, chance=build_chance(5, 2))
    assert torch.equal(optimizer.state[weight]["exp_avg"], first)
    cleared = (first == 0).float().mean().item()
    assert 0.6 < cleared < 0.8
    assert torch.equal(first[first != 0], before[first != 0])


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_the_step_after_a_restart_is_no_leap(stepped: Any, method: str):
    optimizer, (weight, other) = stepped
    prune_(optimizer, [weight], method, 0.5, chance=build_chance(5, 2))
    before = weight.detach().clone()
    weight.grad, other.grad = torch.full_like(weight, 1e-6), None
    optimizer.step()
    # 1e-3 times at most 1 for what was kept; times 0.1 / sqrt(0.001), less decay of weights, for what was cleared
    assert (weight - before).abs().max() < 5e-3


def test_a_reset_drops_all_state(stepped: Any):
    optimizer, (weight, kept) = stepped
    prune_(optimizer, [weight], "reset", 0.1, chance=build_chance(0, 1))
    assert weight not in optimizer.state
    assert kept in optimizer.state


def test_the_base_comes_back_from_a_checkpoint_bit_for_bit(tmp_path: Path):
    base, other = build_model(dtype=torch.bfloat16), build_model(seed=5, dtype=torch.bfloat16)
    adapt(base)
    merge_(base, in_ram=False)
    save_file(list_base_weights(base), tmp_path / RELORA)
    adapt(other)
    read_base_(other, tmp_path)
    for one, two in zip(base.model.layers, other.model.layers, strict=True):
        assert torch.equal(one.mlp.up_proj.base_layer.weight, two.mlp.up_proj.base_layer.weight)


def test_a_base_under_another_adapter_is_refused(tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    base, other = build_model(), build_model()
    adapt(base)
    save_file(list_base_weights(base), tmp_path / RELORA)
    get_peft_model(other, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match="other layers"):
        read_base_(other, tmp_path)
