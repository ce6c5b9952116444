from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.config.sections.freezing import FreezingSection, Pattern, read_pattern
from siredon.hardware import Hardware
from siredon.model.freezing import choose_trained_, find_blocks, find_partial

CPU = Hardware("cpu", "a CPU", 1, False, False, 1)


def trained(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("text", "name", "rows"),
    [
        ("^lm_head.weight$", r"^lm_head\.weight$", None),
        ("model.embed_tokens.weight$[:32000]", r"model\.embed_tokens\.weight$", (0, 32000)),
        ("embed[5]", "embed", (5, 6)),
        ("embed[5:]", "embed", (5, None)),
        ("embed[3:9]", "embed", (3, 9)),
        ("embed[:]", "embed", (0, None)),
        ("model.layers.2[0-9]+.mlp.experts", r"model\.layers\.2[0-9]+\.mlp\.experts", None),
        ("model.layers.[0-3]", r"model\.layers\.[0-3]", None),
        (".*gate.+proj", r".*gate.+proj", None),
        (r"model\.norm", r"model\.norm", None),
        ("a[]", r"a[]", None),
    ],
)
def test_a_pattern_is_a_name_and_rows(text: str, name: str, rows: tuple[int, int | None] | None):
    first, end = rows or (0, None)
    assert read_pattern(text) == Pattern(text, name, first, end, has_rows=rows is not None)


def test_a_dot_of_a_name_is_no_wildcard():
    model = build_model(tied=False)
    model.model.layers.add_module("0xself_attn", torch.nn.Linear(2, 2))
    choose_trained_(model, FreezingSection(unfrozen_parameters=("model.layers.0.self_attn",)), CPU)
    assert trained(model) == {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"}


def test_a_name_is_matched_from_its_beginning_and_several_patterns_add_up():
    model = build_model(tied=False)
    names = ("model.layers.1.mlp.up", "lm_head.weight$[4:6]", "lm_head.weight[9]", "model.norm")
    section = FreezingSection(unfrozen_parameters=names)
    choose_trained_(model, section, CPU)
    assert trained(model) == {"model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"}
    (part,) = find_partial(model, section)
    assert part.name == "lm_head.weight"
    assert (~part.frozen).nonzero().flatten().tolist() == [4, 5, 9]


def test_a_whole_weight_has_no_rows_to_keep_even_if_rows_are_named_too():
    model = build_model(tied=False)
    section = FreezingSection(unfrozen_parameters=("lm_head.weight[4]", "lm_head"))
    assert find_partial(model, section) == ()


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_are_not_trained_have_no_gradient_and_the_others_the_same_one(tied: bool):
    ids = torch.arange(12).reshape(1, 12)
    full, part = build_model(tied=tied), build_model(tied=tied)
    choose_trained_(part, FreezingSection(unfrozen_parameters=("lm_head.weight[3:7]",)), CPU)
    for model in (full, part):
        model(ids, labels=ids).loss.backward()
    expected = full.lm_head.weight.grad.clone()
    expected[:3] = 0
    expected[7:] = 0
    assert torch.equal(part.lm_head.weight.grad, expected)
    assert expected[3:7].abs().min() > 0


def test_without_a_key_everything_is_trained():
    model = build_model()
    choose_trained_(model, FreezingSection(), CPU)
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_the_blocks_are_the_list_as_long_as_the_config_says():
    model = build_model()
    model.extra = torch.nn.ModuleList([torch.nn.Linear(1, 1)] * 3)
    assert find_blocks(model) == ("model.layers", model.model.layers)


def test_frozen_layers_are_numbers_and_ranges():
    section = FreezingSection.model_validate({"freeze_layers": [5, "0-2", "2"]})
    assert section.frozen_layers == (0, 1, 2, 5)
    assert FreezingSection.model_validate({"freeze_layers": 1}).frozen_layers == (1,)


def test_rows_stay_under_any_optimizer():
    from siredon.train.callbacks.rows import RowKeeper

    model = build_model(tied=False)
    section = FreezingSection(unfrozen_parameters=("lm_head.weight[:8]",))
    choose_trained_(model, section, CPU)
    before = model.lm_head.weight.detach().clone()
    keeper = RowKeeper(find_partial(model, section))
    nothing: Any = SimpleNamespace()
    keeper.on_train_begin(nothing, nothing, nothing)
    with torch.no_grad():
        model.lm_head.weight.add_(1)  # The harshest step there is
    keeper.on_optimizer_step(nothing, nothing, nothing)
    assert torch.equal(model.lm_head.weight[8:], before[8:])
    assert torch.equal(model.lm_head.weight[:8], before[:8] + 1)
