"""One optimizer step of the real trainer on given judged answers, and the slow truth to hold it against."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tests.unit.train.pair_steps import true_scores
from tests.unit.train.steps import CPU, GradientCatcher

from siredon.config.load import load_config
from siredon.config.sections.data import DataSection
from siredon.data.collate import PackDataset
from siredon.data.match import JudgedCollator, MatchedTable, match_sides
from siredon.data.pack import keep_single
from siredon.data.split import Split
from siredon.data.table import JoinedTable, build_table
from siredon.data.types import IGNORE, Sample
from siredon.model.head import Head
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.chunked_loss import ChunkedLoss
from siredon.train.kto_loss import KtoOptions
from siredon.train.kto_trainer import KtoTrainer
from siredon.train.reference import StartWeights

OPTIONS = KtoOptions(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)


def random_answers(lengths: Sequence[tuple[int, int, bool]], seed: int = 0) -> list[Sample]:
    """Answers of (tokens of the prompt, of the answer, whether it is good)."""
    random = np.random.default_rng(seed)
    samples = []
    for prompt_length, length, is_desirable in lengths:
        ids = random.integers(8, 500, prompt_length + length).astype(np.int32)
        labels = ids.copy()
        labels[:prompt_length] = IGNORE
        samples.append(Sample(ids, labels, is_desirable=is_desirable))
    return samples


def judged(samples: Sequence[Sample], flags: Sequence[bool]) -> list[Sample]:
    """The same with other judgements."""
    return [replace(sample, is_desirable=flag) for sample, flag in zip(samples, flags, strict=True)]


def matched(samples: Sequence[Sample], max_tokens: int = 512, seed: int = 7) -> MatchedTable:
    """All of them as training rows."""
    table = JoinedTable((build_table(samples),))
    data = DataSection.model_validate(
        {"datasets": [{"path": "rows.jsonl", "type": "chat_template"}], "sequence_len": max_tokens}
    )
    return match_sides((table, None), Split(np.arange(len(samples)), None), data, seed)[0]


def build_kto_trainer(
    policy: Any,
    reference: Any,
    samples: Sequence[Sample],
    write_config: Any,
    *,
    packs: Any = None,
    flatten: bool = False,
    options: KtoOptions = OPTIONS,
    chunked: bool = True,
    **keys: Any,
) -> KtoTrainer:
    """The real trainer, without kernels and callbacks; `reference` is a model like the policy."""
    output = tempfile.mkdtemp(prefix="siredon-step-")
    keys = {"max_steps": 1, "max_grad_norm": 0, "save_strategy": "no", "output_dir": output, **keys}
    config, _ = load_config(str(write_config(**keys)))
    table = matched(samples)
    dataset = PackDataset(table, keep_single(len(table)) if packs is None else packs)
    trainer = KtoTrainer(
        judging=options,
        selects_logits=takes_logits_to_keep(policy),
        model=policy,
        args=build_arguments(
            config, count_steps(config, len(dataset)), Precision(torch.float32, None, False), CPU
        ),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=JudgedCollator(0, flatten=flatten, marks_samples=True),
    )
    if chunked:
        trainer.chunked = ChunkedLoss(Head(policy.get_output_embeddings(), torch.float32))
    start = StartWeights(policy)
    for name, weight in start.weights.items():
        weight.copy_(reference.get_parameter(name).detach())
    trainer.reference = start
    return trainer


def take_kto_step(*args: Any, **options: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """What is logged of one optimizer step, and its gradients; takes what `build_kto_trainer` does."""
    trainer = build_kto_trainer(*args, **options)
    catcher = GradientCatcher()
    trainer.add_callback(catcher)
    trainer.train()
    return next(row for row in trainer.state.log_history if "loss" in row), catcher.gradients


def true_kto_step(
    policy: Any, reference: Any, samples: Sequence[Sample], options: KtoOptions = OPTIONS
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Loss, divergence and rewards, and gradients, in fp64, written out, one sample at a time."""
    policy, reference = copy.deepcopy(policy).double(), copy.deepcopy(reference).double()
    table = matched(samples)
    others = [table.take(index)[1] for index in range(len(table))]
    with torch.no_grad():
        drift = (true_scores(policy, others) - true_scores(reference, others)).mean().item()
        before = true_scores(reference, samples)
    ratios = true_scores(policy, samples) - before
    kl, total = max(drift, 0.0), torch.zeros((), dtype=torch.float64)
    for ratio, sample in zip(ratios, samples, strict=True):
        gain = options.beta * (ratio - kl)
        good = options.desirable_weight * (1 - 1 / (1 + (-gain).exp()))
        bad = options.undesirable_weight * (1 - 1 / (1 + gain.exp()))
        total = total + (good if sample.is_desirable else bad)
    loss = total / len(samples)
    loss.backward()
    rewards = (options.beta * ratios.detach()).tolist()
    found = {"loss": loss.item(), "kl": kl}
    for side, wanted in (("chosen", True), ("rejected", False)):
        own = [reward for reward, s in zip(rewards, samples, strict=True) if s.is_desirable == wanted]
        found[f"count/{side}"] = len(own)
        if own:
            found[f"rewards/{side}"] = sum(own) / len(own)
    gradients = {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}
    return found, gradients
