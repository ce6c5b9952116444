from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.config.sections.embedding import EmbeddingSection
from siredon.errors import ModelError
from siredon.model.embeddings import (
    average_row,
    choose_rows,
    count_ids,
    fit_embeddings_,
    warn_of_frozen_tokens,
)


@pytest.fixture
def larger(tokenizer: Any) -> Any:
    """The tokenizer with two tokens more."""
    built = copy.deepcopy(tokenizer)
    built.add_tokens(["<think>", "</think>"])
    return built


def tables(model: Any) -> list[torch.Tensor]:
    """Embeddings and head."""
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


@pytest.mark.parametrize(
    ("known", "ids", "keys", "rows"),
    [
        (512, 500, {}, 512),
        (512, 514, {}, 514),
        (512, 514, {"resize_token_embeddings_to_32x": True}, 544),
        (512, 500, {"shrink_embeddings": True}, 500),
        (512, 500, {"shrink_embeddings": True, "resize_token_embeddings_to_32x": True}, 512),
        (512, 480, {"shrink_embeddings": True, "resize_token_embeddings_to_32x": True}, 480),
    ],
)
def test_how_many_rows_there_are(known: int, ids: int, keys: dict[str, Any], rows: int):
    assert choose_rows(known, ids, EmbeddingSection(**keys)) == rows


def test_a_vocabulary_with_a_hole_needs_a_row_for_its_highest_id():
    class Holey:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 7}

    assert count_ids(Holey()) == 8


def test_the_average_row_is_the_mean_in_fp64():
    weight = torch.randn(9000, 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    naive = torch.stack(
        [row.double() for index, row in enumerate(weight[:8999]) if index not in (5, 4096)]
    ).mean(0)
    found = average_row(weight, range(8999), leave_out=(5, 4096, 8999))
    torch.testing.assert_close(found, naive, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mean", [True, False])
def test_new_rows_join_and_the_others_stay_bit_for_bit(larger: Any, tied: bool, mean: bool):
    model = build_model(tied=tied)
    before = [table.clone() for table in tables(model)]
    section = EmbeddingSection(mean_resizing_embeddings=mean, resize_token_embeddings_to_32x=True)
    fit_embeddings_(model, larger, section, seed=3)
    after = tables(model)
    assert (after[0] is after[1]) == tied
    assert model.config.vocab_size == model.vocab_size == 544
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[:512], old)
        assert new.requires_grad
        if mean:
            assert torch.equal(new[512:], old.double().mean(0).float().expand(32, -1))
        else:
            assert abs(new[512:].std().item() / model.config.initializer_range - 1) < 0.1
    if not tied:
        assert not torch.equal(after[0][512:], after[1][512:])


def test_random_rows_depend_on_the_seed_alone(larger: Any):
    found = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        model = build_model()
        torch.manual_seed(noise)
        fit_embeddings_(model, larger, EmbeddingSection(), seed=seed)
        found.append(tables(model)[0].detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_rows_without_a_token_go(tokenizer: Any):
    model = build_model(600, tied=False)
    before = tables(model)[1].clone()
    fit_embeddings_(model, tokenizer, EmbeddingSection(), seed=0)
    assert model.config.vocab_size == 600
    fit_embeddings_(model, tokenizer, EmbeddingSection(shrink_embeddings=True), seed=0)
    assert [table.shape[0] for table in tables(model)] == [512, 512]
    assert torch.equal(tables(model)[1], before[:512])
    assert model.config.vocab_size == 512


@pytest.mark.parametrize("tied", [True, False])
def test_untrained_tokens_begin_at_the_average_of_the_others(larger: Any, tied: bool):
    model = build_model(tied=tied)
    before = [table.detach().clone() for table in tables(model)]
    fit_embeddings_(model, larger, EmbeddingSection(fix_untrained_tokens=(5, 7, 513)), seed=0)
    for old, new in zip(before, tables(model), strict=True):
        kept = [index for index in range(512) if index not in (5, 7)]
        expected = old[kept].double().mean(0).float()
        assert all(torch.equal(new[index], expected) for index in (5, 7, 513))
        assert torch.equal(new[kept], old[kept])


def test_an_id_without_a_token_cannot_be_fixed(tokenizer: Any):
    with pytest.raises(ModelError, match=r"600 is no token.*end at 511"):
        fit_embeddings_(build_model(700), tokenizer, EmbeddingSection(fix_untrained_tokens=600), seed=0)


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        ({}, ["<a>", "<b>"]),
        ({"modules_to_save": ["embed_tokens"]}, []),
        ({"trainable_token_indices": [512]}, ["<b>"]),
        ({"trainable_token_indices": {"embed_tokens": [512, 513]}}, []),
    ],
)
def test_frozen_rows_of_new_tokens_are_warned_of(keys: dict[str, Any], frozen: list[str], capsys: Any):
    from peft import LoraConfig, get_peft_model

    model = build_model(514, tied=False)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"], **keys))
    warn_of_frozen_tokens(model, {"<a>": 512, "<b>": 513})
    said = capsys.readouterr().err
    assert said == "" if not frozen else f"{len(frozen)} new token(s) ({', '.join(frozen)})" in said
    if frozen:
        assert "lora_modules_to_save: [embed_tokens, lm_head]" in said
