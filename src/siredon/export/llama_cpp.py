"""A GGUF file as llama.cpp itself reads it, through whichever of its packages is installed."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from siredon.export.round_trip import Answers, Check, compare_ids, list_texts

#: Below 16 bits, llama.cpp rounds what goes into a product to 8 bits.
_MOST_OFF = 0.2
PACKAGES = ("xllamacpp", "llama_cpp")


class Reader(Protocol):
    """A loaded file."""

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, special tokens in it included and none added."""

    def go_on(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest tokens behind a prompt."""


def is_installed() -> bool:
    """Whether there is a package that reads a file as llama.cpp does."""
    return any(find_spec(name) is not None for name in PACKAGES)


def check_with_llama_cpp(path: Path, tokenizer: Any, said: Answers, read: Answers) -> list[Check]:
    """Ids of the same texts, and the likeliest tokens behind the same prompt.

    llama.cpp rounds what passes between layers, so two tokens that are about as likely may change places.

    Args:
        path: The file.
        tokenizer: That of the source.
        said: What the source says.
        read: What transformers, reading the file, says to the same tokens.
    """
    with _open(path, len(said.ids) + 8) as reader:
        ids = compare_ids("llama.cpp: token ids", tokenizer, list_texts(tokenizer), reader.tokenize)
        found = reader.go_on(said.ids[: said.num_prompt], len(said.ids) - said.num_prompt)
    return [ids, _compare_greedy(said, read, found)]


def _compare_greedy(said: Answers, read: Answers, found: list[int]) -> Check:
    """Each token of llama.cpp's answer against what transformers finds likeliest there, as long as all begin alike.

    The measure is how much less likely transformers finds it, in standard deviations of its logits.
    """
    gap, num_same = 0.0, 0
    for number, (token, other) in enumerate(zip(found, said.ids[said.num_prompt :], strict=False)):
        logits = read.logits[0][said.num_prompt - 1 + number]
        gap = max(gap, ((logits.max() - logits[token]) / logits.std()).item())
        if token != other:
            break
        num_same += 1
    text = f"{num_same} of {len(said.ids) - said.num_prompt} tokens the same, off the likeliest by {gap:.2g} deviations"
    return Check("llama.cpp: greedy answer", text, f"<= {_MOST_OFF:g}", bool(found) and gap <= _MOST_OFF)


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

    def tokenize(self, text: str) -> list[int]:
        found = self._ask("tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(token) for token in found["tokens"]]

    def go_on(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        asked = {"prompt": list(prompt), "n_predict": num_tokens, "temperature": 0, "return_tokens": True}
        return [int(token) for token in self._ask("completion", asked)["tokens"]]

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
        self._model = Llama(str(path), n_ctx=num_tokens, n_gpu_layers=0, verbose=False, **threads)

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._model.tokenize(text.encode(), add_bos=False, special=True)]

    def go_on(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        found: list[int] = []
        for token in self._model.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(int(token))
            if len(found) == num_tokens or token == self._model.token_eos():
                break
        return found

    def close(self) -> None:
        self._model.close()
