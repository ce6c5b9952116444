"""Text from a model of transformers, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from siredon.serve.sampling import Sampling
from siredon.serve.watch import Draft, Piece, Stopper, Watch, Writer

if TYPE_CHECKING:
    from siredon.config.schema import Config
    from siredon.serve.wanted import Wanted


@dataclass(frozen=True)
class Engine:
    """A model that answers.

    Args:
        model: A model of transformers, or PEFT's wrapper around one.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end an answer.
        adapter: Whether an adapter of PEFT is there, and whether it is used.
        chosen: The one that is used, by PEFT's name.
        lock: Held while a text is turned into tokens, as tokenizers are no more than one thread's at a time.
    """

    model: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    adapter: Literal["none", "on", "off"] = "none"
    chosen: str = "default"
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, prompt: str, sampling: Sampling, *, on_text: Callable[[str], None] | None = None) -> str:
        """Goes on from `prompt`.

        Args:
            prompt: Text with its special tokens, up to where the model speaks.
            sampling: How tokens are chosen.
            on_text: Gets the answer piece by piece.

        Returns:
            The answer, without special tokens.
        """

        def hand_on(piece: Piece) -> None:
            if on_text and piece.text:
                on_text(piece.text)

        return self.write(self.encode(prompt), sampling, Watch(hand_on))[0].text.strip()

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """Text -> tokens.

        Args:
            text: The text.
            whole: It has its special tokens already, such as the one that texts begin with.
        """
        with self.lock:
            return [int(token) for token in self.tokenizer(text, add_special_tokens=not whole).input_ids]

    def write(self, prompt: Sequence[int], sampling: Sampling, watch: Watch | None = None) -> list[Draft]:
        """Goes on from a prompt; to be called by one thread at a time.

        Args:
            prompt: Its tokens, at least one.
            sampling: How tokens are chosen.
            watch: Who looks at the answers while they are written.

        Returns:
            `sampling.n` answers.
        """
        writer = Writer(
            self.tokenizer,
            prompt,
            frozenset(self.stop_ids),
            sampling.stop,
            sampling.max_new_tokens,
            watch or Watch(),
        )
        writer.begin(sampling.n)
        ids = torch.tensor([list(prompt)], device=self.model.device)
        self.generate(ids, torch.ones_like(ids), sampling, Stopper.of(writer))
        return writer.drafts

    def generate(
        self, ids: torch.Tensor, mask: torch.Tensor, sampling: Sampling, stopper: Stopper, **more: Any
    ) -> Any:
        """Chooses tokens until `stopper` is content.

        Args:
            ids: (prompts, tokens): padded on the left.
            mask: The same shape: 0 for padding.
            sampling: How tokens are chosen.
            stopper: Gets each new token.
            more: What `generate` of transformers takes.

        Returns:
            What `generate` returns: `sequences`, `past_key_values`.
        """
        with torch.inference_mode(), self._adapted(), seeded(sampling.seed, ids.device):
            return self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                **sampling.to_generate(),
                eos_token_id=list(self.stop_ids) or None,
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                return_dict_in_generate=True,
                stopping_criteria=[stopper],
                **more,
            )

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """The model with the adapter that is asked for, or without."""
        if self.adapter == "off":
            with self.model.disable_adapter():
                yield
            return
        if self.adapter == "on" and self.model.active_adapter != self.chosen:
            self.model.set_adapter(self.chosen)
        yield


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers that follow `seed`, and leave those around them as they were; None changes nothing."""
    if seed is None:
        yield
        return
    others = {} if device.type == "cpu" else {"device_type": device.type}
    devices = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices=devices, **others):
        torch.manual_seed(seed)
        yield


def serve_here(config: Config, wanted: Wanted) -> None:
    """Answers over HTTP from a model in this process, until it is told to end."""
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries
    from siredon.serve.server import check_address, run_app

    check_address(wanted.address)
    quiet_libraries()
    from siredon.serve.api import build_app  # After the check: it needs the packages that may be missing
    from siredon.serve.line import Line
    from siredon.serve.load import load_models

    models = load_models(config, probe_hardware(), wanted)
    run_app(build_app(models, Line(wanted.limits.max_waiting), wanted), wanted.address, models)


ENGINE = serve_here
