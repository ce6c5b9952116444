"""What the trials train: models of two layers, a tokenizer of bytes, and rows of random tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siredon.data.types import IGNORE, Sample

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>")
#: Ids of rows: behind the special tokens, within the bytes.
_LOWEST, _HIGHEST = len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + 256

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that flex attention takes
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.08,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Kind of model -> what it has besides.  `llama` has rotary positions; `mistral` sees a window; `gpt2` has a learned
#: embedding for each position; `gemma3_text` caps its logits, and sees a window in every other layer;
#: what follows a dash is a variant.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "resid_pdrop": 0, "embd_pdrop": 0}
    | {"attn_pdrop": 0},
    "gemma3_text": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 32, "sliding_window": 8}
    | {"layer_types": ["sliding_attention", "full_attention"]},
}
#: (tokens, learned tokens) of a row: two of very unequal weight, some that are learned whole, and what lies between.
ROWS = (
    (100, 97),
    (12, 3),
    (40, 35),
    (9, 8),
    (64, 5),
    (17, 16),
    (80, 41),
    (30, 3),
    (90, 60),
    (25, 24),
    (50, 1),
    (70, 69),
    (33, 20),
    (60, 7),
    (21, 11),
    (45, 44),
)
#: Tokens of a sequence: the longest row fits.
SEQUENCE_LEN = 104


def build_tokenizer() -> Any:
    """A token for each byte, and a beginning, an end and a padding of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    pad, bos, eos, *_ = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)


def merge_words(tokenizer: Any, merges: Sequence[tuple[str, str]]) -> None:
    """Lets such a tokenizer join tokens, across words too.

    Args:
        tokenizer: Of `build_tokenizer`; changed in place.
        merges: What is joined, in order; a blank is `Ġ`, a newline `Ċ`.
    """
    from tokenizers import models, pre_tokenizers

    inner = tokenizer.backend_tokenizer
    words = inner.get_vocab(with_added_tokens=True)
    for left, right in merges:
        words[left + right] = len(words)
    inner.model = models.BPE(vocab=words, merges=list(merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def build_model(kind: str, num_tokens: int, *, seed: int = 0) -> Any:
    """A model of a kind of `KINDS` with random weights, in fp32."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CONFIG_MAPPING[kind.partition("-")[0]](**{"vocab_size": num_tokens, **_SIZES, **KINDS[kind]})
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def write_model(kind: str, folder: Path) -> None:
    """Writes a model and its tokenizer, as a user has them."""
    tokenizer = build_tokenizer()
    build_model(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_samples(lengths: Sequence[tuple[int, int]], seed: int = 0) -> list[Sample]:
    """Rows of (tokens, learned tokens): random ids, the last ones learned, the first of all never."""
    random = np.random.default_rng(seed)
    samples = []
    for length, learned in lengths:
        ids = random.integers(_LOWEST, _HIGHEST, length).astype(np.int32)
        labels = ids.copy()
        labels[: max(1, length - learned)] = IGNORE
        samples.append(Sample(ids, labels))
    return samples


def write_rows(samples: Sequence[Sample], path: Path) -> None:
    """Writes samples as rows of `type: tokenized`."""
    rows = ({"input_ids": sample.input_ids.tolist(), "labels": sample.labels.tolist()} for sample in samples)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def count_sequences(lengths: Sequence[tuple[int, int]], *, packed: bool) -> int:
    """Sequences that hold these rows, in their order."""
    if not packed:
        return len(lengths)
    used, number = 0, 1
    for length, _ in lengths:
        if used + length > SEQUENCE_LEN:
            used, number = 0, number + 1
        used += length
    return number
