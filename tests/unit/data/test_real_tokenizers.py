"""Labels, lengths and packs with the tokenizers of published models, on text that nobody would write."""

from __future__ import annotations

import json
import random
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.unit.data.real_tokenizers import TOKENIZERS
from tests.unit.data.samples import samples_of

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import TEMPLATES
from siredon.data.prepare import Preparation, prepare_data
from siredon.data.render import Rendered, Renderer, build_renderer
from siredon.data.tokenize import label_by_offsets, tokenize_rendered
from siredon.data.types import IGNORE, Conversation, Message, Sample, Span, Template, Text

FAMILIES = {"smollm2": "chatml", "qwen": "qwen3", "tekken": "mistral_v3_tekken", "mistral": "mistral_v2v3"}
HARD = [
    *(" ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\u200b"),
    *("e\u0301", "\u0301", "\u0300\u0301a", "\u0915\u094d\u0937\u093f", "\u1112\u1161\u11ab", "A\u030a"),
    *("漢字仮名", "漢", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea"),
    *("assistant\n", "user\n", "<|im_start|>user\n", "<|im_end|>", "[INST]", " [/INST] ", "</s>", "<s>"),
    *(
        "{{ x }}",
        "{% if %}",
        "<tool_call>",
        "### Response:\n",
        "<|",
        "|>",
        "can't",
        "12345",
        "\x00",
        "\ufffd",
    ),
]
# Surrogates are no text; the private plane marks messages; U+2581 is a blank to SentencePiece
CHARACTERS = st.characters(exclude_categories=("Cs", "Co"), exclude_characters="\u2581")
TEXTS = st.lists(st.text(CHARACTERS, max_size=6) | st.sampled_from(HARD), max_size=5).map("".join)


@dataclass(frozen=True, repr=False)
class Family:
    name: str
    tokenizer: Any
    renderer: Renderer

    def sample(self, rendered: Rendered) -> Sample:
        sample = tokenize_rendered(self.tokenizer, [rendered])[0]
        assert isinstance(sample, Sample)
        return sample

    def decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def normal(self, text: str) -> str:
        """The text as the tokenizer reads it."""
        return unicodedata.normalize("NFC", text) if self.name == "qwen" else text


@cache
def build_family(name: str) -> Family | None:
    tokenizer = TOKENIZERS[name]()
    if tokenizer is None:
        return None
    template = TEMPLATES.load(FAMILIES[name])
    assert isinstance(template, Template)
    return Family(name, tokenizer, build_renderer(tokenizer, template.source))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    found = build_family(request.param)
    if found is None:
        pytest.skip(f"the package that carries the tokenizer `{request.param}` is not installed")
    return found


def talk(contents: list[str]) -> Conversation:
    """User and assistant take turns; an empty answer is no row."""
    roles = ("user", "assistant")
    turns = [(roles[number % 2], text) for number, text in enumerate(contents)]
    turns = [(role, text if text.strip() or role == "user" else text + "x") for role, text in turns]
    return Conversation(tuple(Message({"role": r, "content": c}, r, c, r == "assistant") for r, c in turns))


def find_runs(sample: Sample) -> list[tuple[int, int]]:
    """Where tokens are learned without a gap."""
    edges = np.flatnonzero(np.diff(np.pad(sample.labels != IGNORE, 1).astype(int)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def join_learned(rendered: Rendered) -> list[str]:
    """Learned text without a gap."""
    joined: list[str] = []
    last = False
    for span in rendered.spans:
        if span.learn and last:
            joined[-1] += span.text
        elif span.learn:
            joined.append(span.text)
        last = span.learn
    return joined


def slow_truth(family: Family, rendered: Rendered) -> Sample:
    encoded = family.tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.asarray(encoded.offset_mapping, dtype=np.int64).reshape(-1, 2)
    return label_by_offsets(np.asarray(encoded.input_ids, dtype=np.int32), offsets, rendered)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=5))
def test_what_is_learned_decodes_to_the_answers_and_their_stop_tokens(family: Family, contents: list[str]):
    rendered = family.renderer.render(talk(contents))
    sample = family.sample(rendered)
    # Some vocabularies lack rare bytes, and have one token for all of them
    assume(family.decode(sample.input_ids) == family.normal(rendered.text))
    runs, wanted = find_runs(sample), join_learned(rendered)
    assert len(runs) == len(wanted)
    for (start, end), text in zip(runs, wanted, strict=True):
        before = family.decode(sample.input_ids[:start])
        learned = family.decode(sample.input_ids[:end])[len(before) :]
        if text[:1].isspace():  # Blanks at its start may be one token with the template's
            learned, text = learned.lstrip(), text.lstrip()
        assert learned == family.normal(text)
    assert (sample.labels[sample.labels != IGNORE] == sample.input_ids[sample.labels != IGNORE]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=5))
def test_labels_from_borders_are_those_of_every_token_in_conversations(family: Family, contents: list[str]):
    rendered = family.renderer.render(talk(contents))
    assert (family.sample(rendered).labels == slow_truth(family, rendered).labels).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6))
def test_labels_from_borders_are_those_of_every_token_in_any_spans(
    family: Family, spans: list[tuple[str, bool]]
):
    rendered = Rendered(tuple(Span(text, learn) for text, learn in spans if text), True)
    if not rendered.text:
        return
    fast, slow = family.sample(rendered), slow_truth(family, rendered)
    assert (fast.input_ids == slow.input_ids).all()
    assert (fast.labels == slow.labels).all()
    assert fast.labels[0] == IGNORE


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_training_begins_with_the_tokens_of_the_prompt_of_inference(
    family: Family, question: str, answer: str
):
    row = talk([question, answer])
    prompt = family.renderer.render_prompt(Conversation(row.messages[:1]))
    asked = family.tokenizer(prompt, add_special_tokens=False).input_ids
    trained = family.sample(family.renderer.render(row)).input_ids.tolist()
    # Only the last token of a prompt may go on in what the model writes
    assert trained[: len(asked) - 1] == asked[:-1]


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_text_without_a_template_keeps_to_the_same_rules(family: Family, prompt: str, answer: str):
    item = Text((Span(f"Q: {prompt}\nA:\n", False), Span(answer + "x", True)))
    rendered = family.renderer.render(item)
    sample = family.sample(rendered)
    assert (sample.labels == slow_truth(family, rendered).labels).all()
    assert sample.labels[-1] == sample.input_ids[-1] == family.tokenizer.eos_token_id


def write_talks(path: Path, count: int) -> None:
    """Conversations of one to three turns, of words, symbols and blanks."""
    chance = random.Random(5)
    words = [*HARD, "word ", "longer word ", "x" * 30]

    def say() -> str:
        return "".join(chance.choices(words, k=chance.randint(1, 60))) + "."

    rows = [
        {
            "messages": [
                {"role": role, "content": say()} for role in ("user", "assistant") * chance.randint(1, 3)
            ]
        }
        for _ in range(count)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))


def prepare(family: Family, path: Path, **keys: Any) -> Any:
    packing = keys.pop("packing", {})
    entry = {"path": str(path), "type": "chat_template", "chat_template": FAMILIES[family.name]}
    values = {"datasets": [entry], "dataset_prepared_path": str(path.parent / "prepared"), **keys}
    data = DataSection.model_validate({"shuffle_merged_datasets": False, **values})
    preparation = Preparation(family.tokenizer, TokenizerSection(), data, 7)
    return prepare_data(preparation, PackingSection.model_validate(packing))


def test_truncation_cuts_ids_and_labels_together_and_packs_hold_every_sample_once(
    family: Family, tmp_path: Path
):
    write_talks(tmp_path / "rows.jsonl", 60)
    whole = samples_of(prepare(family, tmp_path / "rows.jsonl", sequence_len=100_000).train)
    limit = int(np.median([len(sample.input_ids) for sample in whole]))
    cut = prepare(
        family,
        tmp_path / "rows.jsonl",
        sequence_len=limit,
        excess_length_strategy="truncate",
        packing={"sample_packing": True},
    ).train
    kept = [sample for sample in whole if (sample.labels[:limit] != IGNORE).any()]
    order = [index for pack in cut.packs for index in pack]
    assert sorted(order) == list(range(len(kept)))
    assert any(len(sample.input_ids) > limit for sample in kept)
    for index in range(len(kept)):
        sample = cut.table[index]
        assert (sample.input_ids == kept[index].input_ids[:limit]).all()
        assert (sample.labels == kept[index].labels[:limit]).all()
        assert sample.labels[0] == IGNORE
    assert all(sum(len(sample.input_ids) for sample in cut[index]) <= limit for index in range(len(cut)))
