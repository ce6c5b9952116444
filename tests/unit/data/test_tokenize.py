from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import build_tokenizer

from siredon.data.render import Rendered
from siredon.data.tokenize import tokenize_rendered
from siredon.data.types import IGNORE, Sample, Span

TOKENIZER = build_tokenizer()


def sample_of(*spans: tuple[str, bool]) -> Sample:
    rendered = Rendered(tuple(Span(text, learn) for text, learn in spans if text), True)
    return tokenize_rendered(TOKENIZER, [rendered])[0]


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
