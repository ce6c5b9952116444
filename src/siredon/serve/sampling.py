"""How the tokens of an answer are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen; the defaults take the likeliest each time.

    Args:
        max_new_tokens: At most so many.
        temperature: Divisor of the logits; 0 always takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability; 1 is all.
        top_k: Sample among this many tokens; 0 is all.
        min_p: Sample tokens with at least this fraction of the best one's probability; 0 is all.
        repetition_penalty: Divisor of the logits of tokens that were used already, prompt included; 1 is none.
        stop: Texts before which an answer ends.
        seed: Of the random numbers; None draws them from where the generator stands.
        n: Answers to one prompt.
        generation_kwargs: More settings of `generate`, checked already.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def to_generate(self) -> dict[str, Any]:
        """What `generate` of transformers takes; all is said, so that nothing of the model's own settings remains.

        `stop` and `seed` are not in it: texts are looked for in the text, and random numbers are the engine's.
        """
        choice: dict[str, Any] = {
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "min_p": None,
        }
        if self.temperature > 0:
            choice = {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": self.top_k,
                "min_p": self.min_p or None,
            }
        return {
            **choice,
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "num_return_sequences": self.n,
            **self.generation_kwargs,
        }
