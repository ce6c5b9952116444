"""Templates of Mistral, Gemma and Phi against what their vendors' own code and templates make of conversations."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.render import apply_template, build_renderer
from siredon.data.types import Conversation, Message, RowError

MISTRAL = ("mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken", "pixtral")
GEMMA = ("gemma", "gemma3", "gemma3n", "gemma4", "gemma4_unified")
PHI = ("phi_3", "phi_35")
NAMES = (*MISTRAL, *GEMMA, *PHI)
STOPS = {
    **dict.fromkeys(MISTRAL, "</s>"),
    **dict.fromkeys(GEMMA, "<end_of_turn>"),
    **dict.fromkeys(GEMMA[3:], "<turn|>"),
    **dict.fromkeys(PHI, "<|end|>"),
}
CALL = {"id": "abcde1234", "type": "function", "function": {"name": "clock", "arguments": {}}}


@cache
def golden(name: str) -> Any:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


@cache
def tokenizer_of(name: str) -> Any:
    file = golden(name)
    tokenizer = build_tokenizer(bos=file["bos_token"], eos=file["eos_token"])
    tokenizer.add_special_tokens({"additional_special_tokens": [STOPS[name]]})
    return tokenizer


def source_of(name: str) -> str:
    source = TEMPLATES.load(name).source
    assert isinstance(source, str)
    return source


def render(name: str, messages: list[Any], **options: Any) -> str:
    text = tokenizer_of(name).apply_chat_template(
        messages, chat_template=source_of(name), tokenize=False, **options
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(n, c, id=f"{n}-{c['name']}") for n in NAMES for c in golden(n)["cases"]]
)
def test_the_text_is_the_published_one(name: str, case: dict[str, Any]):
    text = render(
        name,
        case["messages"],
        tools=case["tools"],
        add_generation_prompt=case["add_generation_prompt"],
        **case["kwargs"],
    )
    assert text == case["text"]


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_the_ends_of_their_turns_are_learned(name: str):
    talk = [("user", " a [INST] b\n"), ("assistant", "c\n\nd"), ("user", "e"), ("assistant", '{"f": [1]} ')]
    if name != "gemma":
        talk.insert(0, ("system", "Be brief."))
    conversation = Conversation(
        tuple(Message({"role": r, "content": c}, r, c, r == "assistant") for r, c in talk)
    )
    rendered = build_renderer(tokenizer_of(name), source_of(name)).render(conversation, "turn")
    learned = [span.text for span in rendered.spans if span.learn]
    assert [text.strip() for text in learned] == ["c\n\nd", STOPS[name], '{"f": [1]}', STOPS[name]]
    assert rendered.text == render(name, [{"role": r, "content": c} for r, c in talk])


@pytest.mark.parametrize(
    ("name", "joined"), [("gemma", "One.Two."), ("phi_3", "One. Two."), ("phi_35", "One. Two.")]
)
def test_parts_of_text_are_read_where_the_published_template_reads_none(name: str, joined: str):
    parts = [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]
    answer = {"role": "assistant", "content": "Three."}
    assert render(name, [{"role": "user", "content": parts}, answer]) == render(
        name, [{"role": "user", "content": joined}, answer]
    )


@pytest.mark.parametrize("name", ["gemma3", "gemma3n"])
def test_no_part_of_the_system_prompt_is_lost(name: str):
    parts = [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]
    user = {"role": "user", "content": "Hi"}
    assert render(name, [{"role": "system", "content": parts}, user]) == render(
        name, [{"role": "system", "content": "One. Two."}, user]
    )


@pytest.mark.parametrize(
    "name", ["mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken", "pixtral", "gemma4"]
)
def test_a_tool_result_that_is_no_text_stands_as_its_json(name: str):
    head = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": {"hour": 12, "zone": None}}
    wanted = "{hour:12,zone:null}" if name == "gemma4" else '{"hour": 12, "zone": null}'
    assert wanted in render(name, [*head, result])


def user(content: Any = "a") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str = "b", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


IMAGE = [{"type": "text", "text": "See"}, {"type": "image"}]
SHORT_ID = {**CALL, "id": "call_1"}
AS_TEXT = {**CALL, "function": {"name": "clock", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("names", "messages", "why"),
    [
        (("gemma",), [{"role": "system", "content": "x"}, user()], "no system prompt"),
        (("mistral_v1", *GEMMA[:3]), [user(), user()], "take turns"),
        (MISTRAL[1:], [user(), user()], "user cannot follow user"),
        (MISTRAL[1:], [assistant()], "assistant cannot"),
        (("mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "gemma"), [user(IMAGE)], "text only"),
        (("gemma3", "gemma3n"), [user([{"type": "video"}])], "only"),
        (MISTRAL[1:], [user(), assistant("", tool_calls=[SHORT_ID])], "9 letters or digits"),
        (
            ("mistral_v2v3", "mistral_v3_tekken", "pixtral"),
            [user(), assistant("b", tool_calls=[CALL])],
            "beside its tool calls",
        ),
        (GEMMA[3:], [user(), assistant("", tool_calls=[AS_TEXT])], "object, not text"),
        (PHI, [user(), {"role": "tool", "content": "c"}], "no role tool"),
    ],
)
def test_what_a_model_cannot_be_told_is_refused(names: tuple[str, ...], messages: list[Any], why: str):
    for name in names:
        with pytest.raises(RowError, match=why):
            apply_template(tokenizer_of(name), source_of(name), messages)


@pytest.mark.parametrize("name", NAMES)
def test_every_golden_file_says_where_its_text_is_from_and_holds_the_common_cases(name: str):
    file = golden(name)
    assert "mistral-common" in file["source"] or "published with" in file["source"]
    assert TEMPLATES.load(name).reference.startswith("https://")
    cases = {case["name"] for case in file["cases"]}
    assert {"one_turn", "prompt", "hard_content", "blanks"} <= cases
    assert name == "gemma" or "system_two_turns" in cases
