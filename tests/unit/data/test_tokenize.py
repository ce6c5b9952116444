from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import build_tokenizer

from siredon.data.render import Rendered
from siredon.data.tokenize import label_by_offsets, tokenize_rendered
from siredon.data.types import IGNORE, RowError, Sample, Span

TOKENIZER = build_tokenizer()


def sample_of(*spans: tuple[str, bool]) -> Sample:
    rendered = Rendered(tuple(Span(text, learn) for text, learn in spans if text), True)
    sample = tokenize_rendered(TOKENIZER, [rendered])[0]
    assert isinstance(sample, Sample)
    return sample


def learned(sample: Sample, tokenizer: Any = TOKENIZER) -> str:
    return str(tokenizer.decode(sample.labels[sample.labels != IGNORE]))


def test_decoded_labels_are_the_response_and_its_stop_token():
    sample = sample_of(
        ("Question: what?\nAnswer:\n", False), ("The capital of Japan.", True), ("<|im_end|>", True)
    )
    assert learned(sample) == "The capital of Japan.<|im_end|>"
    assert TOKENIZER.decode(sample.input_ids) == "Question: what?\nAnswer:\nThe capital of Japan.<|im_end|>"


def test_a_token_across_the_border_belongs_to_its_first_character_that_is_no_blank():
    # " the" is one token: the blank is the prompt's, the word is the response's.
    assert len(TOKENIZER(" the").input_ids) == 1
    assert learned(sample_of(("say ", False), ("the name", True))) == " the name"
    assert learned(sample_of(("say", False), (" the name", True))) == " the name"
    # "the" cut in two is one token of the prompt: nothing predicts its second half.
    assert learned(sample_of(("say th", False), ("e name", True))) == " name"


def test_the_first_token_is_never_a_target():
    sample = sample_of(("all learned here", True))
    assert sample.labels[0] == IGNORE
    assert (sample.labels[1:] == sample.input_ids[1:]).all()


def test_rows_are_tokenized_alone_as_they_are_together():
    rows = [Rendered((Span("a b c", False), Span("d e", True)), True), Rendered((Span("f", True),), True)]
    together = tokenize_rendered(TOKENIZER, rows)
    for row, sample in zip(rows, together, strict=True):
        alone = tokenize_rendered(TOKENIZER, [row])[0]
        assert (alone.input_ids == sample.input_ids).all()
        assert (alone.labels == sample.labels).all()


@given(st.lists(st.tuples(st.text(max_size=12), st.booleans()), min_size=1, max_size=6))
def test_labels_are_ids_or_nothing_and_spans_without_learning_teach_nothing(spans: list[tuple[str, bool]]):
    if not "".join(text for text, _ in spans):
        return
    sample = sample_of(*spans)
    marked = sample.labels != IGNORE
    assert (sample.labels[marked] == sample.input_ids[marked]).all()
    if not any(learn for text, learn in spans if text):
        assert not marked.any()


def test_mistral_style_pieces_with_a_prefix_space_are_labelled_exactly():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    alphabet = sorted(set("Prompt: the answer is here</s>"))
    inner.train_from_iterator(
        ["the answer is here", "Prompt: the"],
        trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    rendered = Rendered((Span("Prompt: ", False), Span("the answer", True), Span("</s>", True)), True)
    sample = tokenize_rendered(tokenizer, [rendered])[0]
    assert learned(sample, tokenizer).strip().replace(" </s>", "</s>") == "the answer</s>"


def by_offsets(tokenizer: Any, rendered: Rendered) -> Sample:
    """The slow truth: every token by its own characters."""
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(encoded.input_ids, dtype=np.int32)
    offsets = np.asarray(encoded.offset_mapping, dtype=np.int64).reshape(-1, 2)
    return label_by_offsets(ids, offsets, rendered)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=12) | st.sampled_from([" ", "\n\n", " the", "<|im_end|>", "é漢", "\U0001f600"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_borders_found_from_characters_are_those_of_every_token(spans: list[tuple[str, bool]]):
    rendered = Rendered(tuple(Span(text, learn) for text, learn in spans if text), True)
    if not rendered.text:
        return
    fast = tokenize_rendered(TOKENIZER, [rendered])[0]
    slow = by_offsets(TOKENIZER, rendered)
    assert isinstance(fast, Sample)
    assert (fast.input_ids == slow.input_ids).all()
    assert (fast.labels == slow.labels).all()


class SlowTokenizer:
    """The same tokenizer, without offsets."""

    is_fast = False

    def __call__(self, text: str, **options: Any) -> Any:
        return TOKENIZER(text, **options)

    def decode(self, ids: Any, **options: Any) -> str:
        return str(TOKENIZER.decode(ids, **options))


@pytest.mark.parametrize("text", ["The capital of Japan.", "é漢 \U0001f600 x", "a  b\n\n c", " "])
def test_a_tokenizer_without_offsets_gives_the_same_labels(text: str):
    rendered = Rendered((Span("Question: ", False), Span(text, True), Span("<|im_end|>", True)), True)
    slow = tokenize_rendered(SlowTokenizer(), [rendered])[0]
    fast = tokenize_rendered(TOKENIZER, [rendered])[0]
    assert isinstance(slow, Sample)
    assert isinstance(fast, Sample)
    assert (slow.labels == fast.labels).all()


def test_a_slow_tokenizer_that_changes_the_text_is_refused():
    class Changing(SlowTokenizer):
        def decode(self, ids: Any, **options: Any) -> str:
            return super().decode(ids, **options).upper()

    error = tokenize_rendered(Changing(), [Rendered((Span("abc", True),), True)])[0]
    assert isinstance(error, RowError)
