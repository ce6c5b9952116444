"""One optimizer step of the real trainer on given pairs, and the slow truth to hold it against."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tests.unit.train.steps import CPU, GradientCatcher

from siredon.config.load import load_config
from siredon.data.collate import Collator, PackDataset
from siredon.data.pack import keep_single
from siredon.data.pairs import PAIR
from siredon.data.table import JoinedTable, build_table
from siredon.data.types import IGNORE, Sample
from siredon.model.head import Head
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.chunked_loss import ChunkedLoss
from siredon.train.objective import Objective, add_up
from siredon.train.pair_loss import PairOptions, load_terms
from siredon.train.pair_trainer import PairTrainer
from siredon.train.reference import StartWeights


def random_pairs(lengths: Sequence[tuple[int, int, int]], seed: int = 0) -> list[Sample]:
    """Pairs of (tokens of the prompt, of the chosen answer, of the rejected one), one behind the other."""
    random = np.random.default_rng(seed)
    samples = []
    for prompt_length, *answers in lengths:
        prompt = random.integers(8, 500, prompt_length)
        for length in answers:
            ids = np.concatenate([prompt, random.integers(8, 500, length)]).astype(np.int32)
            labels = ids.copy()
            labels[:prompt_length] = IGNORE
            samples.append(Sample(ids, labels))
    return samples


def changed(model: Any, scale: float = 0.05, seed: int = 3) -> Any:
    """A copy of a model whose weights have moved."""
    torch.manual_seed(seed)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight in moved.parameters():
            weight += scale * torch.randn_like(weight)
    return moved


def build_pair_trainer(
    policy: Any,
    reference: Any,
    samples: Sequence[Sample],
    write_config: Any,
    *,
    packs: Any = None,
    flatten: bool = False,
    options: PairOptions | None = None,
    chunked: bool = True,
    words: dict[str, float] | None = None,
    objective: Objective | None = None,
    weighs: bool = False,
    **keys: Any,
) -> PairTrainer:
    """The real trainer, without kernels and callbacks; `reference` is a model like the policy."""
    output = tempfile.mkdtemp(prefix="siredon-step-")
    keys = {"max_steps": 1, "max_grad_norm": 0, "save_strategy": "no", "output_dir": output, **keys}
    config, _ = load_config(str(write_config(**keys)))
    table = JoinedTable((build_table(samples),), PAIR)
    dataset = PackDataset(table, keep_single(len(table)) if packs is None else packs)
    trainer = PairTrainer(
        objective=objective
        or add_up(
            load_terms([*(words or {"sigmoid": 1.0})], [*(words or {"sigmoid": 1.0}).values()]),
            options or PairOptions(beta=0.3),
            weighs=weighs,
        ),
        selects_logits=takes_logits_to_keep(policy),
        model=policy,
        args=build_arguments(
            config, count_steps(config, len(dataset)), Precision(torch.float32, None, False), CPU
        ),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=Collator(0, flatten=flatten, marks_samples=True),
    )
    if chunked:
        trainer.chunked = ChunkedLoss(Head(policy.get_output_embeddings(), torch.float32))
    start = StartWeights(policy)
    for name, weight in start.weights.items():
        weight.copy_(reference.get_parameter(name).detach())
    trainer.reference = start
    return trainer


def take_pair_step(*args: Any, **options: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """What is logged of one optimizer step, and its gradients; takes what `build_pair_trainer` does."""
    trainer = build_pair_trainer(*args, **options)
    catcher = GradientCatcher()
    trainer.add_callback(catcher)
    trainer.train()
    return next(row for row in trainer.state.log_history if "loss" in row), catcher.gradients


def true_scores(model: Any, samples: Sequence[Sample]) -> torch.Tensor:
    """Summed log-probabilities of what is learned, [S], one sample at a time."""
    found = []
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))
        logs = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        places = np.flatnonzero(sample.labels != IGNORE)
        found.append(sum(logs[place - 1, ids[place]] for place in places))
    return torch.stack(found)


def true_pair_step(
    policy: Any, reference: Any, samples: Sequence[Sample], beta: float = 0.3, smoothing: float = 0.0
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients in fp64, written out."""
    policy, reference = copy.deepcopy(policy).double(), copy.deepcopy(reference).double()
    with torch.no_grad():
        before = true_scores(reference, samples)
    ratio = true_scores(policy, samples) - before
    margin = beta * (ratio[0::2] - ratio[1::2])
    losses = (1 - smoothing) * (1 + (-margin).exp()).log() + smoothing * (1 + margin.exp()).log()
    losses.mean().backward()
    return losses.mean().item(), {
        name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None
    }
