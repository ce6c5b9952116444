"""How far two models are apart in what they say next, token by token.

One model is in memory at a time: the logits of the first wait in files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file

from siredon.model.score_head import catch_scores, find_score_head, has_score_head

#: Tokens that are widened to fp64 at a time.
_CHUNK = 64
_NAME = "logits"


@dataclass(frozen=True)
class Agreement:
    """Two models on the same tokens.

    Args:
        num_tokens: After how many tokens both were asked for the next one.
        max_error: The largest difference of two logits.
        mean_error: The mean difference of two logits, absolute.
        kl: Kullback-Leibler divergence of the second from the first, `sum(p * (log p - log q))`, the mean over tokens,
            in nats.
        max_kl: The largest of a token.
        same_token: The share of tokens after which both find the same one likeliest.
    """

    num_tokens: int
    max_error: float
    mean_error: float
    kl: float
    max_kl: float
    same_token: float

    def to_json(self) -> dict[str, float]:
        """For a record."""
        return asdict(self)

    def describe(self) -> str:
        """For people."""
        return (
            f"{self.num_tokens:,} tokens: logits differ by {self.max_error:.2g} at most, {self.mean_error:.2g} on "
            f"average; KL {self.kl:.2g} nats a token; the likeliest token is the same after "
            f"{100 * self.same_token:.2f} %"
        )


def store_logits(model: Any, samples: Sequence[Sequence[int]], folder: Path) -> None:
    """Writes what a model says after each token of each sample: a file each, in fp32.

    Args:
        model: A causal model of transformers, or PEFT's wrapper around one, in evaluation mode.
        samples: Token ids; each is a sequence of its own.
        folder: Where the files go; 4 bytes for each token and each entry of the vocabulary.
    """
    for number, sample in enumerate(samples):
        logits = compute_logits(model, sample)
        save_file({_NAME: logits.float().cpu().contiguous()}, folder / f"{number}.safetensors")


def compare_logits(folder: Path, model: Any, samples: Sequence[Sequence[int]]) -> Agreement:
    """Holds a model against the one whose logits were stored.

    Args:
        folder: What `store_logits` wrote for the same samples.
        model: The second model.
        samples: Token ids.
    """
    tally = _Tally()
    for number, sample in enumerate(samples):
        found = compute_logits(model, sample).cpu()
        with safe_open(folder / f"{number}.safetensors", "pt") as stored:
            wanted = stored.get_slice(_NAME)
            for start in range(0, len(sample), _CHUNK):
                tally.add(wanted[start : start + _CHUNK], found[start : start + _CHUNK])
    return tally.sum_up()


def measure_agreement(first: torch.Tensor, second: torch.Tensor) -> Agreement:
    """Holds logits against others, `(T, V)` each."""
    tally = _Tally()
    for start in range(0, len(first), _CHUNK):
        tally.add(first[start : start + _CHUNK], second[start : start + _CHUNK])
    return tally.sum_up()


@torch.inference_mode()
def compute_logits(model: Any, sample: Sequence[int]) -> torch.Tensor:
    """`(T, V)`: what the model says after each token.

    Of a score, the two logits of whether an answer with it beats one with a score of 0: the score, and 0.
    """
    ids = torch.tensor([list(sample)], device=model.device)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not has_score_head(base):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits
    with catch_scores(find_score_head(base)) as caught:
        model(input_ids=ids, use_cache=False)
    scores = caught[0][0]
    return torch.nn.functional.pad(scores, (0, 1)) if scores.shape[-1] == 1 else scores


class _Tally:
    def __init__(self) -> None:
        self._num_tokens = self._num_same = 0
        self._max_error = self._sum_error = self._num_logits = 0.0
        self._kl = self._max_kl = 0.0

    def add(self, wanted: torch.Tensor, found: torch.Tensor) -> None:
        """Some tokens of a sample, `(T, V)` each."""
        width = min(wanted.shape[-1], found.shape[-1])
        first, second = wanted[:, :width].double(), found[:, :width].double()
        error = (first - second).abs()
        log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
        kl = torch.nan_to_num(log_p.exp() * (log_p - log_q), nan=float("inf")).sum(-1)
        self._num_tokens += len(first)
        self._num_same += int((first.argmax(-1) == second.argmax(-1)).sum())
        self._max_error = max(self._max_error, float(torch.nan_to_num(error, nan=float("inf")).max()))
        self._sum_error += float(error.sum())
        self._num_logits += error.numel()
        self._kl += float(kl.sum())
        self._max_kl = max(self._max_kl, float(kl.max()))

    def sum_up(self) -> Agreement:
        """What was added."""
        count = max(self._num_tokens, 1)
        mean = self._sum_error / max(self._num_logits, 1)
        kl = max(self._kl / count, 0.0)
        return Agreement(self._num_tokens, self._max_error, mean, kl, self._max_kl, self._num_same / count)
