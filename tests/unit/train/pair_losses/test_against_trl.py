"""The same model and the same pairs through TRL's trainer: the same loss, and the same gradients of all weights.

TRL is no dependency; where it is not installed, this is skipped.  Its version is named, as later ones may differ.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from torch import Tensor

from siredon.config.shelves import PAIR_LOSSES
from siredon.data.types import IGNORE
from siredon.ops.token_statistics import collision_statistics
from siredon.train.pair_loss import PairOptions, PairScores, StepCounts, combine, load_terms
from siredon.train.pair_weights import align, weigh_pairs

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(metadata.version("trl") != "1.16.0", reason="written for TRL 1.16.0"),
]

#: Prompt, chosen and rejected answer of each pair, in ids.
PAIRS = [
    ([5, 6, 7], [10, 11, 12, 2], [20, 21, 2]),
    ([8, 9], [30, 2], [31, 32, 33, 34, 2]),
    ([40, 41, 42, 43], [44, 45, 46, 2], [47, 2]),
    ([50], [51, 52, 2], [53, 54, 55, 2]),
]
BETA = 0.4


@pytest.fixture(scope="module")
def trainer(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer of a tiny model against another one."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    args = DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        beta=BETA,
        use_weighting=True,
        bf16=False,
        use_cpu=True,
        report_to=[],
        gradient_checkpointing=False,
    )
    return DPOTrainer(
        model=build_model(len(tokenizer), seed=1),
        ref_model=build_model(len(tokenizer), seed=2),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def collate() -> dict[str, Tensor]:
    """The chosen answers behind their prompts, and below them the rejected ones, as TRL lays them."""
    sides = [[(prompt, pair[side]) for prompt, *pair in PAIRS] for side in (0, 1)]
    rows = [row for side in sides for row in side]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "completion_mask": []}
    for prompt, answer in rows:
        num_padded = length - len(prompt) - len(answer)
        batch["input_ids"].append([*prompt, *answer, *[0] * num_padded])
        batch["attention_mask"].append([1] * (length - num_padded) + [0] * num_padded)
        batch["completion_mask"].append([0] * len(prompt) + [1] * len(answer) + [0] * num_padded)
    return {name: torch.tensor(values) for name, values in batch.items()}


def read_scores(policy: Any, reference: Any, batch: dict[str, Tensor], *, weighed: bool) -> PairScores:
    """Summed log-probabilities of the answers, by our own kernels from hidden states."""
    targets = batch["input_ids"].where(batch["completion_mask"] == 1, IGNORE)
    targets = torch.nn.functional.pad(targets[:, 1:], (0, 1), value=IGNORE)
    log_probs, aligned = [], []
    for model in (policy, reference):
        hidden = model.model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        found, collisions = collision_statistics(
            hidden.flatten(0, 1), model.lm_head.weight, targets.flatten()
        )
        log_probs.append(found.view_as(targets).sum(1))
        aligned.append(align(found, collisions).view_as(targets).sum(1))
    tokens = (targets != IGNORE).sum(1)
    num = len(PAIRS)
    first, second = (slice(0, num), slice(num, None))
    own = aligned[0]
    return PairScores(
        chosen=log_probs[0][first],
        rejected=log_probs[0][second],
        reference_chosen=log_probs[1][first],
        reference_rejected=log_probs[1][second],
        chosen_tokens=tokens[first],
        rejected_tokens=tokens[second],
        weights=weigh_pairs(own[first], own[second], tokens[first], tokens[second]) if weighed else None,
    )


def compare(trainer: Any, words: list[str], weights: list[float], smoothing: float, *, weighed: bool) -> None:
    """Both losses, and their gradients of every weight of the model."""
    trainer.loss_types, trainer.loss_weights = words, weights
    trainer.label_smoothing, trainer.use_weighting = smoothing, weighed
    batch = collate()
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, batch)
    scores = read_scores(trainer.model, trainer.ref_model, batch, weighed=weighed)
    counts = StepCounts(len(PAIRS), scores.chosen_tokens.sum())
    ours = combine(load_terms(words, weights), scores, PairOptions(BETA, smoothing)).share(counts)
    assert ours.item() == pytest.approx(theirs.item(), rel=2e-5, abs=1e-6)
    if weighed and words == ["hinge"]:
        return  # TRL multiplies by the weights in place, which autograd refuses of what `relu` has given
    learned = list(trainer.model.parameters())
    pairs = [torch.autograd.grad(loss, learned) for loss in (ours, theirs)]
    for mine, truth in zip(*pairs, strict=True):
        assert (mine - truth).norm() <= 1e-4 * truth.norm() + 1e-7


@pytest.mark.parametrize("word", PAIR_LOSSES.names())
def test_the_loss_and_its_gradients_are_those_of_trl(word: str, trainer: Any):
    compare(trainer, [word], [1.0], 0.01 if word == "exo_pair" else 0.0, weighed=False)


@pytest.mark.parametrize("word", ["robust", "exo_pair", "aot", "aot_unpaired"])
def test_smoothing_is_that_of_trl_where_trl_smooths(word: str, trainer: Any):
    compare(trainer, [word], [1.0], 0.2, weighed=False)


@pytest.mark.parametrize("word", [word for word in PAIR_LOSSES.names() if word[:3] not in ("aot", "sft")])
def test_the_weights_of_pairs_are_those_of_trl(word: str, trainer: Any):
    compare(trainer, [word], [1.0], 0.01 if word == "exo_pair" else 0.0, weighed=True)


def test_several_losses_are_added_up_as_trl_does(trainer: Any):
    compare(trainer, ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0], 0.0, weighed=False)


def test_the_shelf_has_the_words_of_trl(trainer: Any):
    """Each is accepted, and there is no other: the list stands in TRL's own message."""
    trainer.loss_types, trainer.loss_weights = ["nonsense"], [1.0]
    with pytest.raises(ValueError, match="nonsense") as caught:
        trainer.compute_loss(trainer.model, collate())
    known = re.findall(r"'(\w+)'", str(caught.value).partition("one of")[2])
    assert sorted(known) == sorted(PAIR_LOSSES.names())
