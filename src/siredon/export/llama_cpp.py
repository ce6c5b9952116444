"""A GGUF file as llama.cpp itself reads it, through whichever of its packages is installed."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from siredon.export.gguf_types import BOUNDS
from siredon.export.round_trip import Answers, Check, compare_greedy, compare_ids, compute_size, list_texts

PACKAGES = ("xllamacpp", "llama_cpp")
#: Weights of these formats are multiplied as they are, and keys and values are kept in f16.  Below 16 bits, llama.cpp
#: rounds what goes into a product to 8 bits.
_WHOLE = ("F32", "F16", "BF16")
#: Likeliest tokens that are asked for at each place.
_NUM_LIKELY = 64


@dataclass(frozen=True)
class Likely:
    """What may come next at one place.

    Args:
        ids: Tokens, the likeliest first.
        log_probs: Natural logarithms of their probabilities.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class Reader(Protocol):
    """A loaded file."""

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, special tokens in it included and none added."""

    def list_likely(self, ids: Sequence[int], first: int) -> list[Likely]:
        """What may stand at each place from `first` on, behind all ids before it."""


def is_installed() -> bool:
    """Whether there is a package that reads a file as llama.cpp does."""
    return any(find_spec(name) is not None for name in PACKAGES)


def check_with_llama_cpp(
    path: Path, tokenizer: Any, said: Answers, read: Answers, kinds: Sequence[str]
) -> list[Check]:
    """Ids of the same texts, and how likely the same tokens are behind the same prompt.

    The error is that of the logarithms of probabilities, root mean square over the likeliest tokens at all places of
    the source's answer, relative to the standard deviation of logits.

    Args:
        path: The file.
        tokenizer: That of the source.
        said: What the source says.
        read: What transformers, reading the file, says to the same tokens.
        kinds: The formats of the file's tensors.
    """
    with _open(path, len(said.ids) + 8) as reader:
        ids = compare_ids("llama.cpp: token ids", tokenizer, list_texts(tokenizer), reader.tokenize)
        places = reader.list_likely(said.ids, said.num_prompt)
    logits = read.logits[0][said.num_prompt - 1 : len(said.ids) - 1]
    expected = logits.log_softmax(-1)
    error = compute_size(
        torch.cat(
            [
                torch.tensor(place.log_probs) - row[list(place.ids)]
                for place, row in zip(places, expected, strict=True)
            ]
        )
    )
    relative = error / logits.std(-1).mean().item()
    bound = BOUNDS["F16" if set(kinds) <= set(_WHOLE) else "Q8_0"].logits
    return [
        ids,
        Check("llama.cpp: logits", f"relative error {relative:.2g}", f"<= {bound:g}", relative <= bound),
        compare_greedy(
            "llama.cpp: greedy answer", logits, torch.tensor([place.ids[0] for place in places]), error
        ),
    ]


@contextmanager
def _open(path: Path, num_tokens: int) -> Iterator[Reader]:
    if find_spec("xllamacpp") is not None:
        yield _Server(path, num_tokens)
        return
    reader = _Bindings(path, num_tokens)
    try:
        yield reader
    finally:
        reader.close()


class _Server:
    """xllamacpp: llama.cpp's own server, in this process."""

    def __init__(self, path: Path, num_tokens: int) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = max(256, num_tokens)
        settings.n_gpu_layers = 0
        settings.verbosity = 0
        settings.warmup = False
        for threads in (settings.cpuparams, settings.cpuparams_batch):
            threads.n_threads = torch.get_num_threads()
        self._server = xllamacpp.Server(settings)
        self._letter = self.tokenize("a")[-1]

    def tokenize(self, text: str) -> list[int]:
        found = self._ask("tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(token) for token in found["tokens"]]

    def list_likely(self, ids: Sequence[int], first: int) -> list[Likely]:
        return [self._find_likely(ids[:place]) for place in range(first, len(ids))]

    def _find_likely(self, before: Sequence[int]) -> Likely:
        # It says nothing of a token that is half a character.  The bias makes it write a letter; the probabilities are
        # those of before.
        asked = {
            "prompt": list(before),
            "n_predict": 1,
            "temperature": 0,
            "n_probs": _NUM_LIKELY,
            "logit_bias": [[self._letter, 1e4]],
        }
        (place,) = self._ask("completion", asked)["completion_probabilities"]
        likely = place["top_logprobs"]
        return Likely(
            tuple(int(token["id"]) for token in likely), tuple(float(token["logprob"]) for token in likely)
        )

    def _ask(self, what: str, words: dict[str, Any]) -> dict[str, Any]:
        address = f"{self._server.listening_address}/{what}"
        body, header = json.dumps(words).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(address, body, header)  # noqa: S310  http on this machine, by its own word
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return dict(json.load(answer))


class _Bindings:
    """llama-cpp-python."""

    def __init__(self, path: Path, num_tokens: int) -> None:
        from llama_cpp import Llama

        threads = {"n_threads": torch.get_num_threads(), "n_threads_batch": torch.get_num_threads()}
        self._model = Llama(
            str(path), n_ctx=num_tokens, n_gpu_layers=0, logits_all=True, verbose=False, **threads
        )

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._model.tokenize(text.encode(), add_bos=False, special=True)]

    def list_likely(self, ids: Sequence[int], first: int) -> list[Likely]:
        self._model.reset()
        self._model.eval(list(ids))
        rows = torch.tensor(self._model.scores[first - 1 : len(ids) - 1]).log_softmax(-1)
        top = rows.topk(min(_NUM_LIKELY, rows.shape[-1]))
        return [
            Likely(tuple(found), tuple(log_probs))
            for found, log_probs in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def close(self) -> None:
        self._model.close()
