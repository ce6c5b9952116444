"""A tokenizer in the words of llama.cpp: its tokens, its merges, and the name of how it splits text before them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from siredon.errors import ModelError
from siredon.log import note

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Splitter:
    """How text is split before merging.

    Args:
        name: What llama.cpp calls it.
        whole_words: Whether a piece that is a token is that token, without regard to merges.
    """

    name: str
    whole_words: bool = False


#: The expression of a `Split` in `tokenizer.json` -> what llama.cpp, whose source names the same expression, calls it.
_BY_EXPRESSION = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}": Splitter("qwen2"),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": Splitter("qwen35"),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}": Splitter(
        "llama-bpe", whole_words=True
    ),
    rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}|{_REST_SLASH}": Splitter("tekken", whole_words=True),
    rf"{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_SLASH}": Splitter(
        "gpt-4o"
    ),
}
_WAY_OUT = "llama.cpp's own tool, convert_hf_to_gguf.py, knows some more; `--format safetensors` takes every tokenizer."


def add_vocabulary(writer: Any, tokenizer: Any, num_rows: int, stop_ids: tuple[int, ...]) -> None:
    """Writes a byte-level BPE tokenizer, its chat template and its special tokens.

    Args:
        writer: A `gguf.GGUFWriter`.
        tokenizer: A fast tokenizer of transformers.
        num_rows: Rows of the embeddings; those without a token are padding.
        stop_ids: Tokens that end an answer, the main one first.

    Raises:
        ModelError: A tokenizer that llama.cpp does not have.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} has no tokenizer.json, from which GGUF is written", _WAY_OUT
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    splitter = find_splitter(state)
    _check_merging(state, splitter, tokenizer)
    tokens, kinds = list_tokens(tokenizer, state, num_rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter.name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = state["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    _add_special(writer, tokenizer, stop_ids)
    template = read_template(tokenizer)
    if template:
        writer.add_chat_template(template)
    else:
        note("the tokenizer has no chat template: programs that read the file take one of their own")


def find_splitter(state: dict[str, Any]) -> Splitter:
    """How the tokenizer splits, by the rules in its `tokenizer.json`, which are compared with llama.cpp's.

    llama.cpp's own tool asks which tokens one text becomes, and so knows published vocabularies only.

    Raises:
        ModelError: Rules that llama.cpp has no name for.
    """
    if state["model"].get("byte_fallback"):
        raise ModelError(
            "--format gguf: the tokenizer is of SentencePiece's kind, for which llama.cpp and transformers put blanks "
            "behind special tokens differently: no file is right for both",
            _WAY_OUT,
        )
    steps = _flatten(state["pre_tokenizer"])
    kinds = [step["type"] for step in steps]
    is_byte_level = bool(steps) and kinds[-1] == "ByteLevel" and not steps[-1]["add_prefix_space"]
    uses_regex = is_byte_level and steps[-1]["use_regex"]
    if is_byte_level and uses_regex and kinds == ["ByteLevel"]:
        return Splitter("gpt-2")
    if is_byte_level and uses_regex and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return Splitter("smollm")
    if is_byte_level and not uses_regex and kinds == ["Split", "ByteLevel"] and _keeps_all(steps[0]):
        found = _BY_EXPRESSION.get(steps[0]["pattern"].get("Regex", ""))
        if found:
            return found
    known = ", ".join(["gpt-2", "smollm", *(splitter.name for splitter in _BY_EXPRESSION.values())])
    raise ModelError(
        f"--format gguf: the tokenizer splits text by rules ({' + '.join(kinds) or 'none'}) that are not among those "
        f"proven to be llama.cpp's: {known}",
        _WAY_OUT,
    )


def _flatten(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step["pretokenizers"]) if step["type"] == "Sequence" else [step]


def _keeps_all(step: dict[str, Any]) -> bool:
    """Whether what the expression finds becomes pieces: isolated, or all that it does not find removed."""
    return (step["behavior"], step["invert"]) in (("Isolated", False), ("Removed", True))


def _check_merging(state: dict[str, Any], splitter: Splitter, tokenizer: Any) -> None:
    model = state["model"]
    normalizers = _normalizers(state["normalizer"])
    odd = [
        ("a model of type " + model["type"], model["type"] != "BPE"),
        ("dropout", bool(model.get("dropout"))),
        (
            "prefixes or suffixes of words",
            bool(model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")),
        ),
        ("a normalizer", bool(set(normalizers) - {"NFC"})),
    ]
    found = [name for name, is_there in odd if is_there]
    if found:
        raise ModelError(
            f"--format gguf: the tokenizer has {found[0]}, which llama.cpp's BPE has not", _WAY_OUT
        )
    if bool(model.get("ignore_merges")) != splitter.whole_words:
        _check_whole_words(tokenizer, splitter)


def _normalizers(normalizer: dict[str, Any] | None) -> list[str]:
    if normalizer is None:
        return []
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    return [step["type"] for step in steps]


def _check_whole_words(tokenizer: Any, splitter: Splitter) -> None:
    """Passes where it is no matter if whole words come before merges: merges make of each token that token."""
    model = tokenizer.backend_tokenizer.model
    added = tokenizer.get_added_vocab()
    for token in tokenizer.get_vocab():
        if token not in added and len(model.tokenize(token)) > 1:
            raise ModelError(
                f"--format gguf: under `{splitter.name}` llama.cpp {'takes' if splitter.whole_words else 'splits'} "
                f"a word that is a token whole, and this tokenizer does otherwise, which tells in {token!r}",
                _WAY_OUT,
            )


def list_tokens(tokenizer: Any, state: dict[str, Any], num_rows: int) -> tuple[list[str], list[int]]:
    """The tokens by their ids, and the kind of each; rows without one are called `[PAD...]`.

    Raises:
        ModelError: More tokens than rows.
    """
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(vocabulary) >= num_rows:
        raise ModelError(
            f"the tokenizer has {max(vocabulary) + 1:,} tokens, and the model has rows for {num_rows:,}",
            "Export the folder that the run or the merge wrote, where both fit each other.",
        )
    added = {entry["id"]: bool(entry["special"]) for entry in state["added_tokens"]}
    tokens, kinds = [], []
    for index in range(num_rows):
        if index not in vocabulary:
            tokens.append(f"[PAD{index}]")
            kinds.append(_UNUSED)
            continue
        tokens.append(vocabulary[index])
        kinds.append(_NORMAL if index not in added else _CONTROL if added[index] else _USER_DEFINED)
    return tokens, kinds


def _add_special(writer: Any, tokenizer: Any, stop_ids: tuple[int, ...]) -> None:
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if stop_ids:
        writer.add_eos_token_id(stop_ids[0])
    for stop in stop_ids[1:2]:
        writer.add_eot_token_id(stop)
    if len(stop_ids) > 2:
        names = ", ".join(tokenizer.convert_ids_to_tokens(list(stop_ids[2:])))
        note(
            f"a GGUF file names two tokens that end an answer: {names} end one only where llama.cpp knows them by name"
        )
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    begins, ends = find_frame(tokenizer)
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(ends)


def find_frame(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts a token that begins a text before it, and one that ends a text behind it."""
    ids = tokenizer("a").input_ids
    begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return begins, tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id


def read_template(tokenizer: Any) -> str:
    """The chat template; of several the default one; empty if there is none."""
    template = tokenizer.chat_template
    return template.get("default", "") if isinstance(template, dict) else template or ""
