"""One optimizer step of the real trainer on given samples, and the slow truth to hold it against."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from siredon.config.load import load_config
from siredon.data.collate import Collator, PackDataset
from siredon.data.pack import Packs
from siredon.data.table import build_table
from siredon.data.types import IGNORE, Sample
from siredon.hardware import Hardware
from siredon.model.load import takes_logits_to_keep
from siredon.model.precision import Precision
from siredon.train.arguments import build_arguments, count_steps
from siredon.train.trainer import SiredonTrainer

CPU = Hardware("cpu", "test", 1, False, False, 1)


class GradientCatcher(TrainerCallback):
    """Keeps the gradients with which the first optimizer step is made."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not self.gradients:
            self.gradients = {
                name: parameter.grad.detach().cpu().clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }


def take_step(
    model: Any,
    samples: Sequence[Sample],
    packs: Packs | Sequence[Sequence[int]],
    write_config: Any,
    *,
    pad_to: int | None = None,
    flatten: bool = False,
    hardware: Hardware = CPU,
    **keys: Any,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimizer step."""
    output = tempfile.mkdtemp(prefix="siredon-step-")
    config, _ = load_config(
        str(write_config(max_steps=1, max_grad_norm=0, save_strategy="no", output_dir=output, **keys))
    )
    dataset = PackDataset(build_table(samples), packs)
    catcher = GradientCatcher()
    trainer = SiredonTrainer(
        selects_logits=takes_logits_to_keep(model),
        model=model,
        args=build_arguments(
            config,
            count_steps(config, len(dataset)),
            Precision(torch.float32, None, False),
            hardware,
        ),
        train_dataset=dataset,
        data_collator=Collator(0, pad_to, flatten=flatten),
        callbacks=[catcher],
    )
    trainer.train()
    loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert Path(output).is_dir()
    return loss, catcher.gradients


def build_steps_trainer(model: Any, *, flatten: bool = False, **keys: Any) -> SiredonTrainer:
    """The real trainer around a model, without data; packs of one length with nothing to spare."""
    from transformers import TrainingArguments

    sizes = {
        "per_device_train_batch_size": keys.get("micro_batch_size", 1),
        "per_device_eval_batch_size": keys.get("eval_batch_size", keys.get("micro_batch_size", 1)),
    }
    return SiredonTrainer(
        selects_logits=takes_logits_to_keep(model),
        model=model,
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="siredon-step-"), use_cpu=True, report_to=[], **sizes
        ),
        data_collator=Collator(0, flatten=flatten),
    )


def true_step(model: Any, samples: Sequence[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    """The same, one sample at a time in fp64: summed loss over all targets divided by their number."""
    model = model.double()
    model.zero_grad()
    num_targets = sum(sample.num_targets for sample in samples)
    total = 0.0
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))[None]
        labels = torch.from_numpy(sample.labels.astype("int64"))
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORE, reduction="sum")
        (loss / num_targets).backward()
        total += loss.item()
    gradients = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    return total / num_targets, gradients


def random_samples(lengths: Sequence[tuple[int, int]], seed: int = 0) -> list[Sample]:
    """Samples of (tokens, learned tokens): random ids, the last ones learned."""
    import numpy as np

    random = np.random.default_rng(seed)
    samples = []
    for length, learned in lengths:
        ids = random.integers(8, 500, length).astype(np.int32)
        labels = ids.copy()
        labels[: length - learned] = IGNORE
        labels[0] = IGNORE
        samples.append(Sample(ids, labels))
    return samples


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference of any gradient, relative to the largest gradient."""
    assert a.keys() == b.keys()
    assert a
    scale = max(value.abs().max().item() for value in b.values())
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a) / scale
