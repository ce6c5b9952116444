"""Chat templates against renderings of the published ones, kept in a JSON file each; `source` says whose."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.render import apply_template, build_renderer
from siredon.data.types import Conversation, Message

NAMES = (
    "alpaca",
    "aya",
    "chatml",
    "cohere",
    "command_a",
    "command_a_rag",
    "command_a_tool_use",
    "llama3",
    "llama3_2_vision",
    "llama4",
    "llava",
    "metharme",
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": " 3+3? "},
    {"role": "assistant", "content": " six\n"},
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
CALLING = [
    {"role": "user", "content": "1+0?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "1"},
]


def read_golden(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def golden_cases() -> list[Any]:
    golden = {name: read_golden(name) for name in NAMES}
    return [
        pytest.param(name, golden[name]["tokens"], case, id=f"{name}-{case['name']}")
        for name in NAMES
        for case in golden[name]["cases"]
    ]


def render(tokenizer: Any, name: str, messages: list[Any], *, prompt: bool = False, **options: Any) -> str:
    tokens = read_golden(name)["tokens"]
    return tokenizer.apply_chat_template(
        messages,
        chat_template=TEMPLATES.load(name).source,
        tokenize=False,
        add_generation_prompt=prompt,
        **{**tokens, **options},
    )


@pytest.mark.parametrize(("name", "tokens", "case"), golden_cases())
def test_every_byte_is_that_of_the_published_template(
    tokenizer: Any, name: str, tokens: dict[str, str], case: dict[str, Any]
):
    text = tokenizer.apply_chat_template(
        case["messages"],
        chat_template=TEMPLATES.load(name).source,
        tools=case["tools"],
        tokenize=False,
        add_generation_prompt=case["add_generation_prompt"],
        **tokens,
        **case["kwargs"],
    )
    assert text == case["text"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_text_are_one_text(tokenizer: Any, name: str):
    whole = [{**message, "content": message["content"].strip()} for message in TALK]
    parts = [
        {**message, "content": [{"type": "text", "text": text} for text in pieces]}
        for message, pieces in zip(
            whole, (["Be br", "ief."], ["2+2?"], ["fo", "ur"], ["3+3?"], ["six"]), strict=True
        )
    ]
    if name == "llava":  # which puts a blank behind each part
        parts[0], parts[2] = whole[0], whole[2]
    assert render(tokenizer, name, parts) == render(tokenizer, name, whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_without_content_is_an_empty_one(tokenizer: Any, name: str):
    empty = [*TALK[:4], {"role": "assistant", "content": [] if name == "llava" else ""}]
    for absent in ({"role": "assistant"}, {"role": "assistant", "content": None}):
        assert render(tokenizer, name, [*TALK[:4], absent]) == render(tokenizer, name, empty)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_assistant_says_is_found_in_the_text(name: str):
    tokens = read_golden(name)["tokens"]
    tokenizer = build_tokenizer(bos=tokens["bos_token"], eos=tokens["eos_token"])
    messages = tuple(Message(m, m["role"], m["content"], m["role"] == "assistant") for m in TALK)
    rendered = build_renderer(tokenizer, TEMPLATES.load(name).source).render(Conversation(messages), "none")
    learned = [span.text for span in rendered.spans if span.learn]
    assert len(learned) == 2
    assert "four" in learned[0]
    assert "six" in learned[1]
    assert not any(word in text for text in learned for word in ("2+2", "3+3", "brief"))


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_without_a_first_token_begins_without_one(tokenizer: Any, name: str):
    bos = read_golden(name)["tokens"]["bos_token"]
    assert tokenizer.bos_token is None
    without = apply_template(tokenizer, TEMPLATES.load(name).source, TALK)
    assert render(tokenizer, name, TALK, eos_token="<|im_end|>").removeprefix(bos) == without


IMAGE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}


@pytest.mark.parametrize(
    ("name", "messages", "options", "problem"),
    [
        ("alpaca", [*TALK, {"role": "tool", "content": "1"}], {}, "no tool calls"),
        ("alpaca", [*TALK, TALK[0]], {}, "one system message"),
        ("metharme", CALLING, {}, "no tool calls"),
        ("metharme", [*TALK, TALK[0]], {}, "one system message"),
        ("aya", [TALK[1], TALK[1]], {}, "must alternate"),
        ("cohere", CALLING, {}, "without tool calls"),
        ("cohere", [TALK[1], {"role": "tool", "content": "1"}], {}, "must alternate"),
        ("llama3", CALLING, {}, "no tool calls"),
        ("command_a", CALLING, {}, "command_a_tool_use"),
        ("llama3_2_vision", [TALK[0], IMAGE], {}, "no system message beside images"),
        ("llama3_2_vision", [{"role": "assistant", "tool_calls": [CALL, CALL]}], {}, "one tool at a time"),
        ("llama3_2_vision", TALK[:1], {"tools": [TOOL]}, "first user message"),
        ("llama4", TALK[:1], {"tools": [TOOL]}, "first user message"),
    ],
)
def test_what_a_format_cannot_say_is_refused(
    tokenizer: Any, name: str, messages: list[Any], options: dict[str, Any], problem: str
):
    with pytest.raises(TemplateError, match=problem):
        render(tokenizer, name, messages, **options)


def test_chatml_shows_calls_of_tools_behind_what_is_said(tokenizer: Any):
    said = [{"role": "assistant", "content": "One moment.", "tool_calls": [CALL, CALL]}]
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert render(tokenizer, "chatml", CALLING) == (
        f"<|im_start|>user\n1+0?<|im_end|>\n<|im_start|>assistant\n{call}<|im_end|>\n"
        "<|im_start|>tool\n1<|im_end|>\n"
    )
    assert render(tokenizer, "chatml", said, prompt=True) == (
        f"<|im_start|>assistant\nOne moment.\n{call}\n{call}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_command_a_gives_results_without_ids_to_the_calls_in_their_order(tokenizer: Any):
    text = render(tokenizer, "command_a_tool_use", [*CALLING, CALLING[1], CALLING[2]], tools=[TOOL])
    assert text.count('"tool_call_id": "0"') == 2
    assert text.count('"tool_call_id": "1"') == 2


@pytest.mark.parametrize("name", ["llama3_2_vision", "llama4"])
def test_images_of_the_message_that_lists_the_tools_are_kept(tokenizer: Any, name: str):
    text = render(tokenizer, name, [IMAGE], tools=[TOOL])
    assert "\n\n<|image|>What is it?<|eot" in text


def test_llama3_2_vision_gives_the_date_of_today_unless_told_another(tokenizer: Any):
    before = datetime.now().strftime("%d %b %Y")
    text = render(tokenizer, "llama3_2_vision", TALK)
    assert f"Today Date: {before}\n" in text or datetime.now().strftime("%d %b %Y") != before
    assert "Today Date: 26 Jul 2024\n" in render(
        tokenizer, "llama3_2_vision", TALK, date_string="26 Jul 2024"
    )
