"""Spans -> samples: the text is tokenized once, whole, and each token belongs to one span.

A token that lies across the border of two spans belongs to the one that holds its first character
that is no blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siredon.data.render import Rendered
from siredon.data.types import IGNORE, Sample
from siredon.errors import DataError


def tokenize_rendered(tokenizer: Any, rows: Sequence[Rendered]) -> list[Sample]:
    """Tokenizes rows together, on all cores.

    Args:
        tokenizer: A tokenizer of transformers with offsets (a fast one).
        rows: What was rendered; special tokens stand in the text.

    Returns:
        One sample per row, not cut.

    Raises:
        DataError: The tokenizer gives no offsets.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets, so labels cannot be exact",
            "Use the fast version of this tokenizer (a tokenizer.json file).",
        )
    texts = [row.text for row in rows]
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [
        _label(np.asarray(ids, dtype=np.int32), np.asarray(offsets, dtype=np.int64).reshape(-1, 2), row, text)
        for ids, offsets, row, text in zip(
            encoded["input_ids"], encoded["offset_mapping"], rows, texts, strict=True
        )
    ]


def _label(ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], row: Rendered, text: str) -> Sample:
    ends = np.cumsum([len(span.text) for span in row.spans])
    learn = np.array([span.learn for span in row.spans], dtype=bool)
    first = np.searchsorted(ends, offsets[:, 0], side="right")
    last = np.searchsorted(ends, np.maximum(offsets[:, 1] - 1, offsets[:, 0]), side="right")
    owner = np.minimum(first, len(learn) - 1)
    for index in np.nonzero(first < last)[0]:
        start, end = offsets[index]
        blanks = len(text[start:end]) - len(text[start:end].lstrip())
        position = min(start + blanks, end - 1)
        owner[index] = np.searchsorted(ends, position, side="right")
    labels = np.where(learn[owner], ids, IGNORE).astype(np.int32)
    if len(labels):
        labels[0] = IGNORE
    return Sample(ids, labels)
