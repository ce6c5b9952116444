from __future__ import annotations

import numpy as np
import pytest
import torch

from siredon.data.collate import Collator
from siredon.data.types import Sample
from siredon.model.noise import EmbeddingNoise, count_document_tokens

WIDTH = 48


def sample_of(length: int) -> Sample:
    ids = np.arange(1, length + 1)
    return Sample(input_ids=ids, labels=ids)


PACKS = [(sample_of(3), sample_of(9)), (sample_of(5),), (sample_of(2), sample_of(2), sample_of(11))]


@pytest.mark.parametrize("flatten", [False, True])
def test_each_token_counts_the_document_it_is_of_and_padding_counts_nothing(flatten: bool):
    batch = Collator(pad_id=0, flatten=flatten, multiple=16)(PACKS)
    found = count_document_tokens(batch["position_ids"], batch["num_tokens"])
    expected = torch.zeros_like(found)
    place = 0
    for row, pack in enumerate(PACKS):
        place = place if flatten else 0
        for sample in pack:
            length = len(sample.input_ids)
            expected[0 if flatten else row, place : place + length] = length
            place += length
    assert torch.equal(found, expected)
    assert (found == 0).sum() == found.numel() - 32


def test_a_row_may_begin_in_the_middle_of_a_document():
    found = count_document_tokens(torch.tensor([[7, 8, 9, 0, 1]]), torch.tensor([5]))
    assert found.tolist() == [[3, 3, 3, 2, 2]]


def test_noise_is_uniform_up_to_the_bound_of_its_document():
    torch.manual_seed(0)
    batch = Collator(pad_id=0, multiple=32)(PACKS)
    embeddings = torch.nn.Embedding(20, WIDTH)
    noise = EmbeddingNoise(5.0)
    handle = noise.attach_(embeddings)
    plain = embeddings(batch["input_ids"])
    with noise.during(batch["position_ids"], batch["num_tokens"]):
        draws = [embeddings(batch["input_ids"]) - plain for _ in range(40)]
    change = torch.stack(draws).detach()
    lengths = count_document_tokens(batch["position_ids"], batch["num_tokens"])
    assert not change[:, lengths == 0].any()
    for length in (2, 3, 5, 9, 11):
        own = change[:, lengths == length]
        bound = 5.0 / (length * WIDTH) ** 0.5
        assert own.abs().max() <= bound * 1.0001
        assert own.abs().max() > 0.98 * bound
        assert own.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert abs(own.mean().item()) < 0.05 * bound
    # Outside there is none, and after `remove` no way to have any
    assert torch.equal(embeddings(batch["input_ids"]), plain)
    handle.remove()
    with noise.during(batch["position_ids"], batch["num_tokens"]):
        assert torch.equal(embeddings(batch["input_ids"]), plain)


def test_noise_ends_with_an_error_too():
    noise = EmbeddingNoise(5.0)
    embeddings = torch.nn.Embedding(20, WIDTH)
    noise.attach_(embeddings)
    with pytest.raises(RuntimeError), noise.during(torch.arange(4).reshape(1, 4), torch.tensor([4])):
        raise RuntimeError
    assert torch.equal(embeddings(torch.tensor([[1]])), embeddings.weight[1].reshape(1, 1, -1))
