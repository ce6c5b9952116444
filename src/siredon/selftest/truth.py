"""The slow truth: one row at a time, alone, in fp64, all logits, no class of this package on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siredon.data.types import IGNORE, Sample


@dataclass(frozen=True)
class Truth:
    """What a step over rows must come to.

    Args:
        loss: Summed loss of all targets, divided by their number.
        gradients: Of that loss, fp64.
        num_targets: All targets.
    """

    loss: float
    gradients: dict[str, torch.Tensor]
    num_targets: int

    @property
    def norm(self) -> float:
        """Length of all gradients as one vector."""
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in self.gradients.values()))


def find_truth(folder: Path, samples: Sequence[Sample]) -> Truth:
    """The loss and gradients of a whole optimizer step, from the weights of a folder."""
    model = read_exact_model(folder)
    num_targets = sum(sample.num_targets for sample in samples)
    total = 0.0
    for sample in samples:
        labels = torch.from_numpy(sample.labels.astype("int64"))[1:]
        logits = exact_logits(model, sample)[:-1]
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        (loss / num_targets).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return Truth(total / num_targets, found, num_targets)


def read_exact_model(folder: Path) -> Any:
    """The model of a folder in fp64, with the plainest attention, without dropout."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def exact_logits(model: Any, sample: Sample) -> torch.Tensor:
    """Logits of one row alone, shape [T, V]."""
    ids = torch.from_numpy(sample.input_ids.astype("int64"))[None]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def compare_tensors(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference of any number, relative to the largest number wanted; infinite where names differ."""
    if found.keys() != wanted.keys() or not wanted:
        return math.inf
    scale = max(float(tensor.abs().max()) for tensor in wanted.values())
    worst = torch.stack(
        [(found[name].double() - tensor.double()).abs().max() for name, tensor in wanted.items()]
    ).max()  # `max` of Python would pass over what is no number
    return float(worst) / scale if scale else float(worst)


def compare_numbers(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest difference, relative to the largest number wanted; infinite where there are more or fewer."""
    if len(found) != len(wanted) or not wanted:
        return math.inf
    scale = max(map(abs, wanted)) or 1.0
    differences = [abs(one - other) / scale for one, other in zip(found, wanted, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)
