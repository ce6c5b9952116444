"""SimPO, ORPO, KTO and rewards through TRL's trainers: the same loss, and the same gradients of all weights.

TRL is no dependency; where it is not installed, this is skipped.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from torch import Tensor

from siredon.data.types import IGNORE
from siredon.ops.token_statistics import token_statistics
from siredon.train.kto_loss import AnswerScores, KtoOptions, estimate_kl, kto_loss, sum_drifts
from siredon.train.orpo_loss import OrpoOptions, orpo_loss
from siredon.train.pair_loss import PairScores, StepCounts
from siredon.train.reward_loss import reward_loss
from siredon.train.simpo_loss import SimpoOptions, simpo_loss

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(metadata.version("trl") != "1.16.0", reason="written for TRL 1.16.0"),
]

#: Prompt, chosen and rejected answer of each pair, in ids.  A prompt of one token is no target: TRL's ORPO imitates
#: prompts too, and ours does not.
PAIRS = [
    ([5], [10, 11, 12, 2], [20, 21, 2]),
    ([8], [30, 2], [31, 32, 33, 34, 2]),
    ([40], [44, 45, 46, 2], [47, 2]),
]
#: Seeds of a policy and a reference model, of which the first makes mismatched answers more likely.
_AHEAD = (2, 1)
ROW = {"prompt": "a", "chosen": "b", "rejected": "c"}
PLAIN = {"bf16": False, "use_cpu": True, "report_to": [], "gradient_checkpointing": False}


def lay(rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Rows of prompt and answer, padded on the right."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    found: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        num = length - len(prompt) - len(answer)
        found["input_ids"].append([*prompt, *answer, *[0] * num])
        found["attention_mask"].append([1] * (length - num) + [0] * num)
        found["labels"].append([IGNORE] * len(prompt) + answer + [IGNORE] * num)
    return {name: torch.tensor(values) for name, values in found.items()}


def sides() -> list[dict[str, Tensor]]:
    """The chosen and the rejected answers behind their prompts."""
    return [lay([(prompt, pair[side]) for prompt, *pair in PAIRS]) for side in (0, 1)]


def add_up(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities of the answers, and their tokens."""
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    hidden = model.model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    found, _ = token_statistics(hidden.flatten(0, 1), model.lm_head.weight, targets.flatten())
    return found.view_as(targets).sum(1), (targets != IGNORE).sum(1)


def score_pairs(model: Any) -> tuple[PairScores, StepCounts]:
    (chosen, first), (rejected, second) = (add_up(model, side) for side in sides())
    return PairScores(chosen, rejected, None, None, first, second), StepCounts(len(PAIRS), first.sum())


def compare(model: Any, ours: Tensor, theirs: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=2e-5)
    learned = list(model.parameters())
    pairs = [torch.autograd.grad(loss, learned) for loss in (ours, theirs)]
    for mine, truth in zip(*pairs, strict=True):
        assert (mine - truth).norm() <= 1e-4 * truth.norm() + 1e-7


def build(trainer: Any, args: Any, tokenizer: Any, row: dict[str, Any], **models: Any) -> Any:
    from datasets import Dataset

    return trainer(args=args, train_dataset=Dataset.from_list([row]), processing_class=tokenizer, **models)


def pair_batch() -> dict[str, Tensor]:
    """As TRL's CPO and ORPO take it."""
    names = zip(("chosen", "rejected"), sides(), strict=True)
    return {f"{side}_{name}": value for side, batch in names for name, value in batch.items()}


@pytest.mark.parametrize("cpo_alpha", [0.0, 0.7])
def test_simpo_is_that_of_trl(cpo_alpha: float, tokenizer: Any, tmp_path: Path):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    options = {"beta": 2.0, "simpo_gamma": 0.7, "cpo_alpha": cpo_alpha, "loss_type": "simpo"}
    args = CPOConfig(output_dir=str(tmp_path), **options, **PLAIN)
    trainer = build(CPOTrainer, args, tokenizer, ROW, model=build_model(len(tokenizer), seed=1))
    theirs = trainer.compute_loss(trainer.model, pair_batch())
    scores, counts = score_pairs(trainer.model)
    compare(trainer.model, simpo_loss(scores, SimpoOptions(2.0, 0.7, cpo_alpha)).share(counts), theirs)


def test_orpo_is_that_of_trl(tokenizer: Any, tmp_path: Path):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    args = ORPOConfig(output_dir=str(tmp_path), beta=0.6, **PLAIN)
    trainer = build(ORPOTrainer, args, tokenizer, ROW, model=build_model(len(tokenizer), seed=1))
    theirs = trainer.compute_loss(trainer.model, pair_batch())
    scores, counts = score_pairs(trainer.model)
    compare(trainer.model, orpo_loss(scores, OrpoOptions(0.6)).share(counts), theirs)


def test_the_odds_of_trl_have_no_gradient_near_one_and_ours_have():
    from trl.experimental.orpo.orpo_trainer import log1mexp

    from siredon.train.orpo_loss import log_odds

    theirs, ours = (torch.tensor([-1e-9], requires_grad=True) for _ in range(2))
    log1mexp(theirs).sum().backward()
    log_odds(ours).sum().backward()
    assert theirs.grad is not None
    assert ours.grad is not None
    assert theirs.grad.isnan().all()
    assert ours.grad.item() == pytest.approx(1e9, rel=1e-6)


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1)])
@pytest.mark.parametrize("good", [[True, False, True], [True] * 3, [False] * 3])
def test_kto_is_that_of_trl(good: list[bool], seeds: tuple[int, int], tokenizer: Any, tmp_path: Path):
    """Of two models, one has drifted from the other by less than nothing, the other way round by more."""
    from trl import KTOConfig, KTOTrainer

    args = KTOConfig(
        output_dir=str(tmp_path), beta=0.4, desirable_weight=1.3, undesirable_weight=0.8, **PLAIN
    )
    trainer = build(
        KTOTrainer,
        args,
        tokenizer,
        {"prompt": "a", "completion": "b", "label": True},
        model=build_model(len(tokenizer), seed=seeds[0]),
        ref_model=build_model(len(tokenizer), seed=seeds[1]),
    )
    answers, mismatched = (
        lay([(PAIRS[row][0], PAIRS[(row + shift) % 3][1]) for row in range(3)]) for shift in (0, 1)
    )
    batch = {"label": torch.tensor(good)}
    for prefix, rows in (("", answers), ("KL_", mismatched)):
        batch |= {f"{prefix}{name}": rows[name] for name in ("input_ids", "attention_mask")}
        batch[f"{prefix}completion_mask"] = (rows["labels"] != IGNORE).long()
    theirs = trainer.compute_loss(trainer.model, batch)
    models = trainer.model, trainer.ref_model
    kl = estimate_kl(sum_drifts(*(add_up(model, mismatched)[0] for model in models)))
    assert (kl > 0) == (seeds == _AHEAD)
    log_probs, reference = (add_up(model, answers)[0] for model in models)
    scores = AnswerScores(log_probs, reference, batch["label"])
    compare(trainer.model, kto_loss(scores, kl, KtoOptions(0.4, 1.3, 0.8)).mean(), theirs)


@pytest.mark.parametrize("margin", [None, [0.5, 0.0, 2.0]])
@pytest.mark.parametrize("coefficient", [None, 0.01])
def test_rewards_are_learned_as_by_trl(
    margin: list[float] | None, coefficient: float | None, tokenizer: Any, tmp_path: Path
):
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    args = RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=coefficient, **PLAIN)
    config = build_model(len(tokenizer)).config
    config.num_labels = 1
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(config)
    trainer = build(RewardTrainer, args, tokenizer, {"chosen": "a b", "rejected": "a c"}, model=model)
    both = lay([(prompt, pair[side]) for side in (0, 1) for prompt, *pair in PAIRS])
    batch = {name: both[name] for name in ("input_ids", "attention_mask")}
    if margin:
        batch["margin"] = torch.tensor(margin)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    batch.pop("margin", None)
    rewards = trainer.model(**batch).logits[:, 0]
    ours = reward_loss(
        rewards[:3],
        rewards[3:],
        margin=torch.tensor(margin) if margin else None,
        center_coefficient=coefficient or 0.0,
    )
    compare(trainer.model, ours.mean(), theirs)
