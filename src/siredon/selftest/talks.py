"""Conversations under any chat template, prepared as `siredon train` prepares them, and the plain truth about them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import TEMPLATES
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.data.prompt import Prompting, build_prompting
from siredon.data.types import IGNORE, Ids, Sample
from siredon.selftest.row import Cell, Grid
from siredon.selftest.tiny import SPECIAL_TOKENS, build_tokenizer

if TYPE_CHECKING:
    from siredon.selftest.rig import Rig

#: What looks like a special token in the source of a template.
_SPECIAL = re.compile(r"<[^<>'\n ]{2,40}>|\[\|?/?[A-Za-z_]{3,}\|?\]")
#: Reasoning is plain text to a tokenizer, and so are the tags around it.
_PLAIN = {"<think>", "</think>"}
#: Templates of a quick table: a turn ends with a token of its own or eos, and one leaves out reasoning.
_QUICK = ("gemma", "mistral_v1", "qwen3")
#: Two questions with their answers, which no template shortens.
TALK = (
    {"role": "user", "content": "What is 6 times 7?"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "And 6 plus 7?"},
    {"role": "assistant", "content": "That is\n\n 13, I think"},
)


def template_cells(grid: Grid) -> tuple[Cell, ...]:
    """A cell for every chat template."""
    return tuple(Cell(case=name) for name in (_QUICK if grid.is_quick else TEMPLATES.names()))


def read_template(name: str) -> str:
    """Jinja source of a chat template of the shelf."""
    return str(TEMPLATES.load(name).source)


def build_chat_tokenizer(template: str = "", *, adds_bos: bool = False, pads_with_eos: bool = False) -> Any:
    """A tokenizer of bytes that has a chat template, and a token for each of its special words.

    Args:
        template: Jinja source; empty for none.
        adds_bos: It begins plain texts with its bos token.
        pads_with_eos: Its pad token is its eos token.
    """
    from tokenizers import processors

    tokenizer = build_tokenizer()
    words = sorted(set(_SPECIAL.findall(template)) - _PLAIN - set(SPECIAL_TOKENS[:3]))
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    if adds_bos:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
    if pads_with_eos:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = template or None
    return tokenizer


@dataclass(frozen=True)
class Corpus:
    """Rows, and how they are prepared.

    Args:
        tokenizer: Makes tokens of them.
        rows: What stands in the file.
        entry: Keys of the data set; by default its rows are conversations.
        keys: Other keys of the data.
        packing: Keys of packing.
    """

    tokenizer: Any
    rows: Sequence[Mapping[str, Any]]
    entry: Mapping[str, Any] = field(default_factory=lambda: {"type": "chat_template"})
    keys: Mapping[str, Any] = field(default_factory=dict)
    packing: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, rig: Rig, *, multiple: int = 1, flatten: bool = False) -> Prepared:
        """All of the rows, in their order, through the data stage; nothing comes from a cache.

        Raises:
            DataError: They cannot be used.
        """
        folder = rig.make_folder("data")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        data = DataSection.model_validate(
            {
                "datasets": [{**self.entry, "path": str(folder / "rows.jsonl")}],
                "dataset_prepared_path": str(folder / "prepared"),
                "sequence_len": 4096,
                "shuffle_merged_datasets": False,
                **self.keys,
            }
        )
        preparation = Preparation(self.tokenizer, TokenizerSection(), data, 0)
        packing = PackingSection.model_validate({"curriculum_sampling": True, **self.packing})
        return prepare_data(preparation, packing, multiple=multiple, flatten=flatten)

    def build_prompting(self) -> Prompting:
        """How a model that was trained on the rows is asked."""
        entry = DatasetEntry.model_validate({**self.entry, "path": "rows.jsonl"})
        return build_prompting(entry, TokenizerSection(), self.tokenizer)


def list_samples(prepared: Prepared) -> list[Sample]:
    """Every training sample, pack after pack."""
    dataset: Any = prepared.train
    return [sample for index in range(len(dataset)) for sample in dataset[index]]


def prepare_talk(rig: Rig, tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Sample:
    """The sample of one conversation.

    Raises:
        DataError: It cannot be used.
    """
    (sample,) = list_samples(Corpus(tokenizer, [{"messages": list(messages)}]).prepare(rig))
    return sample


@dataclass(frozen=True)
class Plain:
    """A text as transformers alone makes tokens of it.

    Args:
        text: The text.
        ids: Its tokens, shape [T].
        starts: The first character of each, shape [T].
        specials: Ids of special tokens.
    """

    text: str
    ids: Ids
    starts: Ids
    specials: frozenset[int]

    @property
    def words(self) -> list[str]:
        """The characters of each token."""
        ends = [*self.starts[1:].tolist(), len(self.text)]
        return [self.text[start:end] for start, end in zip(self.starts.tolist(), ends, strict=True)]

    def find_special(self, place: int) -> int | None:
        """The first special token at or behind a place in the text, by its number."""
        later = np.flatnonzero((self.starts >= place) & np.isin(self.ids, list(self.specials)))
        return int(later[0]) if len(later) else None

    def cut(self, labels: Ids) -> str:
        """The characters of the tokens that have a label."""
        return "".join(
            word for word, label in zip(self.words, labels.tolist(), strict=True) if label != IGNORE
        )


def read_plainly(tokenizer: Any, text: str) -> Plain:
    """The tokens of a text that holds its special tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = np.asarray([start for start, _ in encoded.offset_mapping], dtype=np.int32)
    ids = np.asarray(encoded.input_ids, dtype=np.int32)
    return Plain(text, ids, starts, frozenset(tokenizer.all_special_ids))


def show_plainly(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """A conversation as transformers alone renders it."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))


def count_differences(found: Ids, wanted: Ids) -> float:
    """How many numbers differ, and by how many there are more or fewer."""
    size = min(len(found), len(wanted))
    return float((found[:size] != wanted[:size]).sum() + abs(len(found) - len(wanted)))
