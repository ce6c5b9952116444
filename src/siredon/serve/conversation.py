"""A model that keeps what it has read: the keys and values of earlier turns are used again.

What is kept is compared with the next prompt, token by token.  So it does not matter what a chat template does with
earlier turns, or what was taken back: from the first token that differs, everything is read anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from siredon.config.checks.positions import num_positions
from siredon.errors import DataError
from siredon.serve.engines.transformers import Engine
from siredon.serve.sampling import Sampling
from siredon.serve.watch import Reason, Stopper, Watch, Writer


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it took.

    Args:
        text: The answer, without special tokens.
        reason: Why it ended.
        num_tokens: Its tokens.
        num_prompt: Tokens of the prompt.
        num_known: Those of the prompt that were not read again.
        seconds: How long it took.
    """

    text: str
    reason: Reason
    num_tokens: int
    num_prompt: int
    num_known: int
    seconds: float


@dataclass
class Voice:
    """A model that answers one prompt after another, each of which begins much as the one before.

    Args:
        engine: The model.
        ids: The tokens that `cache` stands for.
        cache: Their keys and values; None at first.
    """

    engine: Engine
    ids: list[int] = field(default_factory=list)
    cache: Any = None

    def answer(self, text: str, sampling: Sampling, watch: Watch | None = None) -> Answer:
        """Goes on from a text.

        Args:
            text: The prompt, up to where the model speaks.
            sampling: How tokens are chosen.
            watch: Who looks at the answer while it is written, and may end it.

        Raises:
            DataError: The prompt is as long as all that the model can read, or holds nothing.
        """
        prompt = self.engine.encode(text)
        sampling = fit_length(self.engine, len(prompt), sampling)
        engine = self.engine
        stops = frozenset(engine.stop_ids)
        writer = Writer(
            engine.tokenizer, prompt, stops, sampling.stop, sampling.max_new_tokens, watch or Watch()
        )
        writer.begin(1)
        cache, num_known = self._recall(prompt)
        began = time.perf_counter()
        ids = torch.tensor([prompt], device=engine.model.device)
        done = engine.generate(ids, torch.ones_like(ids), sampling, Stopper.of(writer), past_key_values=cache)
        self._keep(done)
        draft = writer.drafts[0]
        assert draft.reason is not None
        seconds = time.perf_counter() - began
        return Answer(draft.text, draft.reason, draft.num_tokens, len(prompt), num_known, seconds)

    def _recall(self, prompt: Sequence[int]) -> tuple[Any, int]:
        """Keys and values of the longest beginning of the prompt that was read already, and its length in tokens.

        The last token of the prompt is always read, as the first new one follows from it.
        """
        cache, known = self.cache, self.ids
        # Until it comes back whole: an interruption in a layer leaves half of it
        self.cache, self.ids = None, []
        shared = count_shared(known, prompt[:-1])
        surplus = len(known) - shared
        if cache is None or not shared or (surplus and not _can_be_cropped(cache)):
            return None, 0
        if surplus:
            cache.crop(-surplus)
        return cache, shared

    def _keep(self, done: Any) -> None:
        if not _can_be_kept(done.past_key_values):
            return
        self.cache = done.past_key_values
        # The newest token has been chosen, and not been read
        self.ids = done.sequences[0].tolist()[: self.cache.get_seq_length()]


def fit_length(engine: Engine, num_tokens: int, sampling: Sampling) -> Sampling:
    """The sampling, with answers that end where the positions of the model do.

    Raises:
        DataError: The prompt leaves no room for an answer, or holds nothing.
    """
    limit = num_positions(engine.model.config.to_dict())
    if not num_tokens:
        raise DataError("the prompt is empty", "Ask something.")
    if limit is None:
        return sampling
    if num_tokens >= limit:
        raise DataError(
            f"the prompt has {num_tokens:,} tokens, and the model reads {limit:,} with its answer",
            "Ask with fewer words; in a chat, take turns back with `/undo`, or begin anew with `/new`.",
        )
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, limit - num_tokens))


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _can_be_kept(cache: Any) -> bool:
    """Whether it can be gone on from with several tokens: layers that sum up may read them as if nothing was before."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)


def _can_be_cropped(cache: Any) -> bool:
    """Whether its end can be taken back: layers that look at a window have lost what was before it."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)
