"""`type: tokenized`: rows that are tokens already, in `input_ids` and, where not all are learned, `labels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from siredon.data.columns import read_column
from siredon.data.types import IGNORE, Format, Ids, ReadOptions, Row, RowError, Sample, Span, Text


def read_tokens(row: Row, options: ReadOptions) -> Sample:
    """The ids; all are learned where there are no labels.  Padding, by `attention_mask`, is left out."""
    ids = _read_ids(row, "input_ids", least=0)
    if len(ids) and int(ids.max()) >= options.num_tokens:
        raise RowError(
            f"has the id {int(ids.max()):,} in `input_ids`; the tokenizer has {options.num_tokens:,} tokens"
        )
    labels = ids.copy() if row.get("labels") is None else _read_ids(row, "labels", least=IGNORE)
    if len(labels) != len(ids):
        raise RowError(f"has {len(ids):,} `input_ids` and {len(labels):,} `labels`")
    if bool(((labels != ids) & (labels != IGNORE)).any()):
        raise RowError(f"has `labels` that are neither the token at their place nor {IGNORE}")
    if row.get("attention_mask") is not None:
        mask = _read_ids(row, "attention_mask", least=0).astype(bool)
        if len(mask) != len(ids):
            raise RowError(f"has {len(ids):,} `input_ids` and {len(mask):,} in `attention_mask`")
        ids, labels = ids[mask], labels[mask]
    labels[:1] = IGNORE
    return Sample(ids, labels)


def _read_ids(row: Row, name: str, least: int) -> Ids:
    value: Any = read_column(row, name)
    try:
        ids = np.asarray(value)
    except ValueError:
        ids = np.asarray("?")
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise RowError(f"column `{name}` is no list of whole numbers")
    if len(ids) and (int(ids.min()) < least or int(ids.max()) >= 2**31):
        raise RowError(f"column `{name}` holds numbers that are no ids")
    return ids.astype(np.int32)


def render_prompt(text: str) -> Text:
    """The text as it is."""
    return Text((Span(text, False),), add_eos=False)


FORMAT = Format(read=read_tokens, prompt=render_prompt, ends=False)
