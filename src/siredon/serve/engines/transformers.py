"""Text from a model of transformers, in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        max_new_tokens: At most so many.
        temperature: 0 always takes the likeliest.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0


@dataclass(frozen=True)
class Engine:
    """A model that answers.

    Args:
        model: A model of transformers, or PEFT's wrapper around one.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end an answer.
        adapter: Whether an adapter of PEFT is there, and whether it is used.
    """

    model: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    adapter: Literal["none", "on", "off"] = "none"

    def answer(self, prompt: str, sampling: Sampling, *, on_text: Callable[[str], None] | None = None) -> str:
        """Goes on from `prompt`.

        Args:
            prompt: Text with its special tokens, up to where the model speaks.
            sampling: How tokens are chosen.
            on_text: Gets the answer piece by piece.

        Returns:
            The answer, without special tokens.
        """
        encoded = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        choice: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.temperature > 0:
            choice = {"do_sample": True, "temperature": sampling.temperature}
        plain = self.model.disable_adapter() if self.adapter == "off" else nullcontext()
        with torch.inference_mode(), plain:
            output = self.model.generate(
                **encoded,
                **choice,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(self.stop_ids) or None,
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                streamer=_streamer(self.tokenizer, on_text) if on_text else None,
            )
        new = output[0, encoded["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        """Hands each finished word on."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
