"""The plan of `gradient_checkpointing: auto`: what layers keep, against a count by hand, and what is chosen from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.train.steps import CPU, build_steps_trainer, random_samples

from siredon.config.sections.memory import MemorySection
from siredon.data.collate import Collator
from siredon.data.types import IGNORE, Batch
from siredon.hardware import Hardware, Memory
from siredon.model.attend import NAME, register_fast_attention
from siredon.model.recompute import (
    count_keeping,
    find_layers,
    recompute_activations_,
    recompute_first_,
)
from siredon.train import activation_plan
from siredon.train.activation_plan import MOST_TRIES, USABLE, USABLE_UNTRIED, Planner, Search
from siredon.train.activation_sizes import (
    LayerSizes,
    Sizes,
    choose_widths,
    count_sizes,
    extrapolate_rows,
    shorten,
)
from siredon.train.probe import Peak, Prober

HIDDEN, FEED, HEADS, SHARED, VOCABULARY, NUM_LAYERS = 32, 88, 4, 2, 512, 4
GPU = Hardware("cuda", "test", 1, True, True, 1)


def build_llama(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": FEED}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": SHARED, "num_hidden_layers": NUM_LAYERS}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **settings}))
    recompute_activations_(model, MemorySection(gradient_checkpointing="auto"))
    return model


def build_batch(*lengths: int, flatten: bool = False) -> Batch:
    samples = random_samples([(length, length - 1) for length in lengths])
    return Collator(0, flatten=flatten)([(sample,) for sample in samples])


def build_prober(model: Any, *, accumulates: bool = False) -> Prober:
    trainer = build_steps_trainer(model)
    trainer._tr_loss = torch.zeros(())  # as `train` does
    return Prober(trainer, "adamw_torch", CPU, accumulates=accumulates)


def uniform(whole: int, inputs: int, num_layers: int = 8, **rest: int) -> Sizes:
    """Layers that are all alike."""
    zero = (0,) * num_layers
    work = (rest.pop("work", 0),) * num_layers
    sizes = LayerSizes((whole,) * num_layers, (inputs,) * num_layers, work, zero)
    return Sizes(sizes, **{"outside": 0, "head": 0, "gradients": 0, **rest})


# What layers keep


def test_a_layer_keeps_what_a_count_by_hand_says():
    batch = build_batch(200, 200)
    model = build_llama()
    sizes = count_sizes(build_prober(model), model, batch)
    shared = HIDDEN * SHARED // HEADS
    # In a norm: its input, the input normalized, the result, and the factor of each token; in attention: queries,
    # keys, values, the result, a figure for each head; in the feed-forward part: four tensors of its width.
    by_hand = 2 * (3 * HIDDEN + 1) + 2 * HIDDEN + 2 * shared + HEADS + 4 * FEED
    tokens = batch["input_ids"].numel()
    assert sizes.layers.whole[1] == pytest.approx(4 * by_hand * tokens, rel=1e-3)
    assert set(sizes.layers.whole[1:]) == {sizes.layers.whole[1]}
    assert sizes.layers.inputs[1] == pytest.approx(4 * HIDDEN * tokens, rel=1e-3)
    assert sizes.layers.work[1] == 3 * 4 * FEED * tokens
    assert sizes.layers.gradients[1] == sum(weight.nbytes for weight in model.model.layers[1].parameters())
    # The head's input of each target, and the logarithms of its probabilities
    assert sizes.head == pytest.approx(4 * (VOCABULARY + HIDDEN) * tokens, rel=0.01)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [(300,), (90, 60)])
def test_the_count_of_short_rows_is_that_of_the_batch(attention: str, lengths: tuple[int, ...]):
    model = build_llama(attn_implementation=attention)
    prober, batch = build_prober(model), build_batch(*lengths)
    sizes = count_sizes(prober, model, batch)
    for count in (0, 2, NUM_LAYERS):
        found = count_whole(prober, model, batch, count)
        kept = sizes.layers.inputs[:count] + sizes.layers.whole[count:]
        assert sum(kept) + sizes.outside + sizes.head == pytest.approx(found, rel=0.03), count


def count_whole(prober: Prober, model: Any, batch: Batch, count: int) -> int:
    """What the pass of the whole batch keeps, added up."""
    from siredon.model.saved_bytes import count_saved

    recompute_first_(model, count)
    with prober.unchanged():
        saved = count_saved(model, find_layers(model), lambda: prober.run_forward(batch))
    return saved.total


def test_counting_leaves_no_trace():
    model = build_llama(attention_dropout=0.1).eval()
    prober, before = build_prober(model), {}
    for name, weight in model.named_parameters():
        weight.grad = torch.full_like(weight, 2.0)
        before[name] = weight.detach().clone()
    state = torch.get_rng_state()
    count_sizes(prober, model, build_batch(40))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert prober.trainer.count_tokens() == (0, 0)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.grad is not None
        assert (weight.grad == 2).all()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in find_layers(model))


def test_frozen_weights_and_tensors_that_are_kept_twice_are_counted_once_or_not_at_all():
    from siredon.model.saved_bytes import count_saved

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8, 8))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return (values @ self.weight) * (values.T @ self.weight)

    model = torch.nn.Sequential(Twice(), Twice())
    saved = count_saved(model, list(model), lambda: model(torch.ones(8, 8)).sum())
    # Both products of the input, which the first layer has, and two factors
    piece = 8 * 8 * 4
    assert saved.layers == (3 * piece, 3 * piece)
    assert saved.largest == (piece, piece)
    assert saved.outside == 0


def test_gradients_of_earlier_micro_batches_are_no_part_of_what_comes():
    model = build_llama()
    sizes = count_sizes(build_prober(model, accumulates=True), model, build_batch(40))
    assert sizes.gradients == 0
    assert sizes.layers.gradients == (0,) * NUM_LAYERS


@pytest.mark.parametrize(("width", "widths"), [(1000, (32, 64, 128)), (10, (2, 5, 10)), (3, (3,)), (1, (1,))])
def test_rows_of_the_count_are_no_longer_than_the_batch(width: int, widths: tuple[int, ...]):
    assert choose_widths(width) == widths


def test_three_rows_tell_a_constant_a_slope_and_a_square():
    def takes(rows: int, width: int) -> int:
        return 1000 + rows * (50 * width + 3 * width**2)

    widths = (32, 64, 128)
    values = [takes(1, width) for width in widths]
    assert extrapolate_rows(widths, values, 4, 4096) == takes(4, 4096)
    assert extrapolate_rows((8, 16), [108, 116], 3, 100) == 100 + 3 * 100
    assert extrapolate_rows((8,), [80], 3, 16) == 3 * 16 * 10


def test_a_row_of_the_count_has_documents_where_the_batch_has_some():
    packed = shorten(build_batch(20, 20, flatten=True), 8, targets=True)
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    plain = shorten(build_batch(20, 20), 8, targets=False)
    assert plain["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert (plain["labels"] == IGNORE).all()
    assert plain["num_tokens"].tolist() == [8]


# What a plan takes


def test_the_peak_is_at_the_end_of_the_forward_pass_or_in_a_layer_that_runs_again():
    sizes = uniform(100, 10, outside=7, head=30)
    assert sizes.predict(0) == 8 * 100 + 7 + 2 * 30
    assert sizes.predict(3) == 3 * 10 + 5 * 100 + 7 + 2 * 30
    # All recomputed: the last layer holds its activations beside all inputs, and the head is gone
    assert sizes.predict(8) == 8 * 10 + 7 + 100
    assert uniform(100, 10, outside=7, head=80).predict(8) == 8 * 10 + 7 + 2 * 80
    assert uniform(100, 10, work=40).predict(0) == 8 * 100 + 40


def test_gradients_come_as_activations_go():
    sizes = LayerSizes((10,) * 4, (1,) * 4, (0,) * 4, (100,) * 4)
    # At the end of the backward pass: all gradients, and the input of the first layer
    assert Sizes(sizes, 0, 0, gradients=50).predict(4) == 4 * 100 + 50


# What is chosen


def search(sizes: Sizes, room: int, truth: Callable[[int], int | None]) -> tuple[int | None, list[int]]:
    found, tried = Search(sizes, room), []
    while (count := found.propose()) is not None:
        assert count not in tried
        tried.append(count)
        found.learn(count, truth(count))
    return found.best, tried


@pytest.mark.parametrize(
    ("room", "count"), [(10_000, 0), (800, 0), (799, 1), (710, 1), (709, 2), (170, 7), (169, None)]
)
def test_as_few_layers_as_fit(room: int, count: int | None):
    sizes = uniform(100, 10)
    best, tried = search(sizes, room, sizes.predict)
    assert best == count
    assert len(tried) <= 2


@pytest.mark.parametrize("room", range(150, 1500, 50))
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 120), (1.0, -90), (1.3, 0), (0.7, 30)])
def test_a_measurement_sets_a_wrong_prediction_right(room: int, factor: float, offset: int):
    sizes = uniform(100, 10, num_layers=12)

    def truth(count: int) -> int:
        return int(factor * sizes.predict(count)) + offset

    best, tried = search(sizes, room, truth)
    assert best == next((count for count in range(13) if truth(count) <= room), None)
    assert len(tried) <= MOST_TRIES


def test_a_plan_for_which_memory_ran_out_is_followed_by_one_that_gives_a_figure():
    sizes = uniform(100, 10, num_layers=32)

    def truth(count: int) -> int | None:
        taken = 900 + sizes.predict(count)
        return taken if taken <= 2000 else None

    best, tried = search(sizes, 1900, truth)
    assert tried[:2] == [15, 32]
    assert best == next(count for count in range(33) if 900 + sizes.predict(count) <= 1900)
    assert len(tried) <= MOST_TRIES


class Device:
    """Stands for a GPU of which a batch takes what it is told, and for the trainer's model on it."""

    def __init__(self, patch: pytest.MonkeyPatch, model: Any, limit: int, work: Callable[[int], int]) -> None:
        self.model, self.limit, self.work = model, limit, work
        self.prober = build_prober(model)
        self.measured: list[int] = []
        self.parked = False
        self.retries = 0
        patch.setattr(activation_plan, "read_memory", lambda hardware: Memory(10**12, limit, 0, 0))
        patch.setattr(activation_plan, "count_retries", lambda hardware: self.retries)
        patch.setattr(activation_plan, "offload_activations_", self.park)
        patch.setattr(self.prober, "measure", self.measure)

    @property
    def recomputed(self) -> list[bool]:
        return [layer.gradient_checkpointing for layer in find_layers(self.model)]

    def park(self, model: Any, hardware: Hardware) -> Callable[[], None]:
        self.parked = True
        return lambda: setattr(self, "parked", False)

    def measure(self, batch: Batch) -> Peak:
        count = sum(self.recomputed)
        assert self.recomputed == [index < count for index in range(NUM_LAYERS)]
        self.measured.append(count)
        work = self.work(count) // (2 if self.parked else 1)
        if work > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Peak(0, work, 0)

    def plan(self, folder: Path, *, tries: bool = True) -> activation_plan.Plan:
        planner = Planner(self.prober, self.model, GPU, tries, folder / "run.json")
        return planner.plan_(build_batch(100, 100))


GIB = 2**30


@pytest.mark.parametrize(("work", "count"), [(19, 0), (21, 1), (24, 2), (29, 4)])
def test_a_plan_is_measured_and_put_into_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, work: int, count: int
):
    (tmp_path / "run.json").write_text("{}")
    limit = int(20 * GIB / USABLE) + 1
    device = Device(monkeypatch, build_llama(), limit, lambda k: (work - 2 * k - (k == 4)) * GIB)
    plan = device.plan(tmp_path)
    assert (plan.recomputed, sum(device.recomputed)) == (count, count)
    assert plan.peak is not None
    assert plan.peak.total <= limit * USABLE
    said = capsys.readouterr().err
    what = {0: "no layer", 4: "every layer"}.get(count, f"{count} of 4 layers")
    assert (
        f"memory: gradient_checkpointing auto: {what} recomputed; the longest batch, 2 x 104 tokens" in said
    )
    assert f"takes {plan.peak.total / GIB:.1f} of 21.1 GiB (measured)" in said
    assert f'"recomputed_layers": {count}' in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(("room", "keeping"), [(0, 0), (5, 2), (2**20, 3)])
@pytest.mark.parametrize("tries", [True, False])
def test_attention_is_kept_where_there_is_room_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, room: int, keeping: int, tries: bool
):
    """Three layers are recomputed; what is then left holds the attention of none, of two, or of more than there are."""
    (tmp_path / "run.json").write_text("{}")
    register_fast_attention()
    model = build_llama(attn_implementation=NAME)
    sizes = count_sizes(build_prober(model), model, build_batch(100, 100))
    assert sizes.attention == 4 * 2 * 104 * (HIDDEN + HEADS)
    room = int(room / 2 * sizes.attention) if room < 2**20 else sizes.layers.whole[0] // 2
    state = 2 * sum(weight.nbytes for weight in model.parameters())
    usable = state + sizes.predict(3) + room
    limit = int(usable / (USABLE if tries else USABLE_UNTRIED)) + 2
    device = Device(
        monkeypatch,
        model,
        limit,
        lambda k: state + sizes.predict(k) + count_keeping(model) * sizes.attention,
    )
    plan = device.plan(tmp_path, tries=tries)
    assert (plan.recomputed, plan.keeping, count_keeping(model)) == (3, keeping, keeping)
    if tries:
        assert plan.peak is not None
        assert plan.peak.total == plan.taken == state + sizes.predict(3) + keeping * sizes.attention
    said = {
        0: "3 of 4 layers recomputed;",
        2: "recomputed, but for attention in 2 of them;",
        3: "but for attention;",
    }
    assert said[keeping] in capsys.readouterr().err
    assert f'"keep_attention": {keeping}' in (tmp_path / "run.json").read_text()


def test_attention_that_does_not_fit_after_all_is_computed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    register_fast_attention()
    model = build_llama(attn_implementation=NAME)
    limit = int(20 * GIB / USABLE) + 1
    device = Device(monkeypatch, model, limit, lambda k: (24 - 2 * k + 9 * (count_keeping(model) > 0)) * GIB)
    plan = device.plan(tmp_path)
    assert (plan.recomputed, plan.keeping, count_keeping(model)) == (2, 0, 0)


def test_what_is_kept_waits_in_ram_only_where_recomputing_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
):
    device = Device(monkeypatch, build_llama(), 10 * GIB, lambda k: 15 * GIB)
    plan = device.plan(tmp_path)
    assert (plan.recomputed, plan.offloads, device.parked) == (4, True, True)
    assert "every layer recomputed, what is kept waits in pinned RAM;" in capsys.readouterr().err
    device = Device(monkeypatch, build_llama(), 10 * GIB, lambda k: 30 * GIB)
    plan = device.plan(tmp_path)
    assert (plan.recomputed, plan.offloads, device.parked, plan.peak) == (4, False, False, None)
    assert capsys.readouterr().err == ""


def test_a_plan_that_fits_only_without_a_cache_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    device = Device(monkeypatch, build_llama(), 20 * GIB, lambda k: (18 - 2 * k) * GIB)
    measure = device.measure

    def run_short(batch: Batch) -> Peak:
        peak = measure(batch)
        device.retries += peak.work > 17 * GIB
        return peak

    monkeypatch.setattr(device.prober, "measure", run_short)
    assert device.plan(tmp_path).recomputed == 1


def test_ranks_choose_what_the_fullest_can_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    device = Device(monkeypatch, build_llama(), int(20 * GIB / USABLE) + 1, lambda k: (19 - 2 * k) * GIB)
    # Another rank is 3 GiB fuller
    monkeypatch.setattr(activation_plan, "largest_of_ranks", lambda value, device: value + 3 * GIB)
    assert device.plan(tmp_path).recomputed == 1


def test_without_trying_the_count_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any):
    model = build_llama()
    sizes = count_sizes(build_prober(model), model, build_batch(100, 100))
    state = 2 * sum(weight.nbytes for weight in model.parameters())
    for count in (0, 2):
        limit = int((state + sizes.predict(count)) / USABLE_UNTRIED) + 2
        device = Device(monkeypatch, model, limit, lambda k: 0)
        plan = device.plan(tmp_path, tries=False)
        assert sizes.predict(plan.recomputed) <= sizes.predict(count)
        assert plan.recomputed <= count
        assert device.measured == []
        assert "(estimated from what its layers keep)" in capsys.readouterr().err
    enough = Device(monkeypatch, model, int((state + sizes.predict(0)) / USABLE_UNTRIED) + 2, lambda k: 0)
    with monkeypatch.context() as patch:  # On another rank a layer less has room
        patch.setattr(
            activation_plan, "largest_of_ranks", lambda value, device: value + sizes.layers.inputs[0]
        )
        assert enough.plan(tmp_path, tries=False).recomputed == 1
    Device(monkeypatch, model, state, lambda k: 0).plan(tmp_path, tries=False)
    assert "memory may run out in the longest batch" in capsys.readouterr().err
