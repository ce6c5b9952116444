"""Every format and variant on one row: the text that the model reads, and the pieces of it that it learns.

`SIREDON_GOLDEN=1 pytest tests/unit/data/test_formats_golden.py` writes text and pieces of every row in
`golden/formats.json` anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.format_choice import all_types
from siredon.config.sections.data import DatasetEntry
from siredon.data.choose import choose_format
from siredon.data.render import Renderer, build_renderer
from siredon.data.templates.chatml import TEMPLATE
from siredon.data.tokenize import tokenize_rendered
from siredon.data.types import IGNORE, ReadOptions, Text

GOLDEN = Path(__file__).parent / "golden/formats.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
#: Formats that have no row of their own: what they are depends on the data set or on the mapping.
CHOSEN = {
    "auto",
    "user_defined",
    "_synthetic",
    "tokenized",
    "stepwise_supervised",
}  # the last three are no text


def name_of(case: dict[str, Any]) -> str:
    return case["type"] if isinstance(case["type"], str) else "mapping"


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return build_renderer(build_tokenizer(bos="<s>", eos="</s>", add_bos=True), TEMPLATE.source)


def learn(case: dict[str, Any], renderer: Renderer, *, train_on_inputs: bool = False) -> dict[str, Any]:
    """The case with the text that its row becomes, and the pieces that its labels hold."""
    entry = DatasetEntry.model_validate({"path": "rows", "type": case["type"], **case.get("entry", {})})
    options = ReadOptions(entry, train_on_inputs, renderer.bos, renderer.eos)
    rendered = renderer.render(choose_format(entry).read(case["row"], options), "turn")
    (sample,) = tokenize_rendered(renderer.tokenizer, [rendered])
    pieces = groupby(
        zip(sample.input_ids, sample.labels, strict=True), key=lambda pair: bool(pair[1] != IGNORE)
    )
    tokenizer: Any = renderer.tokenizer
    learned = [tokenizer.decode([label for _, label in pairs]) for kept, pairs in pieces if kept]
    return {**case, "text": tokenizer.decode(sample.input_ids), "learned": learned}


@pytest.mark.skipif("SIREDON_GOLDEN" not in os.environ, reason="writes the golden file: set SIREDON_GOLDEN")
def test_write_the_golden_file(renderer: Renderer):
    cases = [learn(case, renderer) for case in CASES]
    GOLDEN.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_row_becomes_the_golden_text_and_labels(case: dict[str, Any], renderer: Renderer):
    assert learn(case, renderer) == case


def test_every_format_and_variant_has_a_row():
    assert {name_of(case) for case in CASES} == set(all_types()) - CHOSEN | {"mapping"}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_what_is_learned_ends_in_exactly_one_stop_token(case: dict[str, Any]):
    if case["type"] == "input_output":
        return
    stop = "</s>" if "<|im_start|>assistant" not in case["text"] or "chatml" in case["type"] else "<|im_end|>"
    assert case["learned"]
    for piece in case["learned"]:
        assert piece.endswith(stop)
        assert piece.count(stop) == 1


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_all_is_learned_where_prompts_are_too(case: dict[str, Any], renderer: Renderer):
    """Of conversations, the chat template's own words are not."""
    if "<|im_start|>" in case["text"] and "chatml" not in case["type"]:
        return
    (learned,) = learn(case, renderer, train_on_inputs=True)["learned"]
    assert learned == case["text"].removeprefix("<s>")


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_prompt_holds_what_is_typed_and_no_stop_token(case: dict[str, Any], renderer: Renderer):
    entry = DatasetEntry.model_validate({"path": "rows", "type": case["type"]})
    item = choose_format(entry).prompt("What is the sea?")
    text = renderer.render_prompt(item)
    assert "What is the sea?" in text
    assert not text.endswith("</s>")
    if isinstance(item, Text):
        assert not any(span.learn for span in item.spans)
