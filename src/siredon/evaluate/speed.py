"""How fast a model reads and writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

#: Times that each is measured; the fastest counts, as others are disturbed.
_NUM_TIMES = 3
_NUM_PROMPT = 16
_NUM_WRITTEN = 32


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one sequence.

    Args:
        prefill: Read at once, without a cache.
        generation: Written one after another, with a cache.
    """

    prefill: float
    generation: float

    def to_json(self) -> dict[str, float]:
        """For a record."""
        return asdict(self)


@torch.inference_mode()
def measure_speed(model: Any, ids: Sequence[int]) -> Speed:
    """The fastest of three times each, after one that does not count.

    Args:
        model: A causal model of transformers, in evaluation mode.
        ids: What it reads; from the first 16 it goes on for 32 tokens.
    """
    given = torch.tensor([list(ids)], device=model.device)
    prompt = given[:, :_NUM_PROMPT]

    def read() -> int:
        # The copy waits for the device
        model(input_ids=given, use_cache=False).logits[:, -1].cpu()
        return given.shape[1]

    def write() -> int:
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=_NUM_WRITTEN,
            min_new_tokens=_NUM_WRITTEN,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            pad_token_id=0,
        )
        return int(output.cpu().shape[1]) - prompt.shape[1]

    return Speed(_time(read), _time(write))


def _time(run: Callable[[], int]) -> float:
    run()
    best = 0.0
    for _ in range(_NUM_TIMES):
        began = time.perf_counter()
        num_tokens = run()
        best = max(best, num_tokens / (time.perf_counter() - began))
    return best
