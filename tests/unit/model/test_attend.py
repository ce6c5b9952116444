"""Attention by the fastest kernel: whole rows, and documents end to end, as `sdpa` with a mask computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model

from siredon.model.attend import NAME, attend, build_mask, measure_ahead, register_fast_attention


class _Layer(torch.nn.Module):
    is_causal = True
    num_key_value_groups = 2


def _draw(rows: int, length: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, 4, length, 8), (rows, 2, length, 8), (rows, 2, length, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def _positions(*rows: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def _truth(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> torch.Tensor:
    """One row, document after document, without any mask but the causal one."""
    parts, start = [], 0
    key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    for length in lengths:
        piece = slice(start, start + length)
        scores = query[:, :, piece] @ key[:, :, piece].mT * 8**-0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        parts.append(scores.softmax(-1) @ value[:, :, piece])
        start += length
    return torch.cat(parts, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    "rows", [((7, 5, 1),), ((13,),), ((4, 9), (13,)), ((13,), (13,)), ((1, 1, 11), (6, 7))]
)
def test_documents_see_themselves_alone(rows: tuple[tuple[int, ...], ...]):
    query, key, value = _draw(len(rows), 13)
    found, _ = attend(_Layer(), query, key, value, None, scaling=8**-0.5, position_ids=_positions(*rows))
    expected = torch.cat(
        [
            _truth(*(part[[index]] for part in (query, key, value)), lengths)
            for index, lengths in enumerate(rows)
        ]
    )
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((found * weights).sum(), (query, key, value))
    for one, other in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), (query, key, value)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_borders_that_were_given_are_used_and_not_the_positions():
    query, key, value = _draw(1, 13)
    starts = torch.tensor([0, 4, 13], dtype=torch.int32)
    found, _ = attend(
        _Layer(),
        query,
        key,
        value,
        None,
        cu_seq_lens_q=starts,
        max_length_q=9,
        position_ids=_positions((13,)),
    )
    assert torch.allclose(found, _truth(query, key, value, (4, 9)), atol=1e-12)


def test_positions_of_another_batch_are_never_taken():
    query, key, value = _draw(1, 13)
    for lengths in ((13,), (4, 9), (6, 7)):  # a new tensor may lie where the last one was
        positions = _positions(lengths)
        measure_ahead(positions)
        found, _ = attend(_Layer(), query, key, value, None, position_ids=positions)
        assert torch.allclose(found, _truth(query, key, value, lengths), atol=1e-12)
        del positions


def test_a_mask_is_made_where_a_row_is_padded_or_goes_on_from_a_cache():
    assert build_mask(2, 8, 8, attention_mask=None, device="cpu") is None
    padded = torch.ones(2, 8, dtype=torch.bool)
    padded[0, :3] = False
    mask = build_mask(2, 8, 8, attention_mask=padded, device="cpu")
    assert mask is not None
    assert not mask[0, 0, 5, :3].any()
    assert build_mask(1, 2, 9, q_offset=7, attention_mask=None, device="cpu") is not None


@pytest.mark.parametrize("rows", [((13,), (13,)), ((6, 7), (2, 11))])
def test_a_model_gives_the_logits_of_sdpa(rows: tuple[tuple[int, ...], ...]):
    model = build_model().double().eval()
    ids = torch.randint(0, 512, (2, 13), generator=torch.Generator().manual_seed(1))
    positions = _positions(*rows)
    with torch.no_grad():
        expected = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        register_fast_attention()
        model.set_attn_implementation(NAME)
        found = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-10)


def test_a_model_writes_the_same_from_a_cache_and_with_padding():
    model = build_model().eval()
    ids = torch.randint(3, 512, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    register_fast_attention()
    model.set_attn_implementation(NAME)
    assert torch.equal(model.generate(ids, **options), expected)
