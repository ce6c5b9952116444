"""Templates of DeepSeek, Jamba, Qwen, Falcon, Nemotron and EXAONE, against texts that published templates made.

The texts lie in `<name>.json` beside this file; its `source` says which template made them.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.data.render import build_renderer
from siredon.data.types import Conversation, Message

NAMES = (
    "deepseek_v2",
    "deepseek_v3",
    "exaone",
    "exaone4",
    "falcon_h1",
    "jamba",
    "nemotron_h",
    "qwen2_vl",
    "qwen3",
    "qwen3_5",
    "qwen_25",
)
JSON_PARTS = ("jamba",)


@cache
def read_golden(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


@cache
def make_tokenizer(bos: str | None, eos: str) -> Any:
    return build_tokenizer(bos=bos, eos=eos)


def tokenizer_of(name: str) -> Any:
    return make_tokenizer(**read_golden(name)["tokens"])


def source_of(name: str) -> str:
    return import_module(f"siredon.data.templates.{name}").TEMPLATE.source


def render(name: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return tokenizer_of(name).apply_chat_template(
        messages, chat_template=source_of(name), tokenize=False, **options
    )


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


CASES = [
    pytest.param(name, case, id=f"{name}: {case['name']}")
    for name in NAMES
    for case in read_golden(name)["cases"]
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_text_is_that_of_the_published_template(name: str, case: dict[str, Any]):
    text = render(
        name,
        case["messages"],
        tools=case["tools"],
        add_generation_prompt=case["add_generation_prompt"],
        **case["kwargs"],
    )
    assert text == case["text"]


@pytest.mark.parametrize("name", NAMES)
def test_the_template_says_where_the_published_one_stands(name: str):
    template = import_module(f"siredon.data.templates.{name}").TEMPLATE
    assert template.reference.startswith("https://huggingface.co/")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in JSON_PARTS])
def test_parts_of_text_are_as_the_joined_text(name: str):
    parts = [{"type": "text", "text": "a {{ b }}\n"}, {"type": "text", "text": "c"}]
    whole = [{"role": "system", "content": "rules"}, user("a {{ b }}\nc"), assistant("d")]
    split = [
        {"role": "system", "content": [{"type": "text", "text": "rules"}]},
        user(parts),
        assistant([{"type": "text", "text": "d"}]),
    ]
    assert render(name, split) == render(name, whole)


@pytest.mark.parametrize(
    "name", ["deepseek_v3", "jamba", "nemotron_h", "qwen3", "qwen3_5", "qwen_25", "exaone4"]
)
def test_a_call_may_come_without_content(name: str):
    call = {"type": "function", "function": {"name": "now", "arguments": {}}}
    empty = [user("a"), assistant("", tool_calls=[call])]
    assert render(name, [user("a"), assistant(None, tool_calls=[call])]) == render(name, empty)
    assert render(name, [user("a"), {"role": "assistant", "tool_calls": [call]}]) == render(name, empty)
    assert "now" in render(name, empty)


@pytest.mark.parametrize("name", ["deepseek_v3", "jamba", "qwen3"])
def test_arguments_as_json_text_are_as_arguments_as_an_object(name: str):
    def talk(arguments: Any) -> list[dict[str, Any]]:
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return [user("a"), assistant("b", tool_calls=[call])]

    assert render(name, talk('{"city": "Köln", "n": 1}')) == render(name, talk({"city": "Köln", "n": 1}))


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("qwen3_5", [{"role": "system", "content": "no question"}, assistant("a")]),
        ("qwen3_5", [user("a"), {"role": "system", "content": "late"}, user("b")]),
        ("qwen3_5", [{"role": "system", "content": [{"type": "image"}]}, user("a")]),
        ("qwen3_5", [user([{"type": "audio", "audio": "a.wav"}])]),
        ("qwen3_5", [user("a"), {"role": "narrator", "content": "b"}]),
        ("exaone4", [user("a"), {"role": "narrator", "content": "b"}]),
    ],
)
def test_what_the_published_template_refuses_is_refused(name: str, messages: list[dict[str, Any]]):
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="message"):
        render(name, messages)


def test_jamba_refuses_a_tool_that_is_no_function():
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="function"):
        render("jamba", [user("a")], tools=[{"type": "retrieval", "name": "x"}])


STOPS = {
    "deepseek_v2": "<｜end▁of▁sentence｜>",  # noqa: RUF001 - full-width, as in the token
    "deepseek_v3": "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "exaone": "[|endofturn|]",
    "exaone4": "[|endofturn|]",
    "jamba": "<|eom|>",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_the_assistant_says_is_found_in_the_text(name: str):
    renderer = build_renderer(tokenizer_of(name), source_of(name))
    turns = [
        ("system", "rules"),
        ("user", "a"),
        ("assistant", "{{ b }}"),
        ("user", "c"),
        ("assistant", "[d]\n\ne"),
    ]
    messages = tuple(Message({"role": r, "content": c}, r, c, r == "assistant") for r, c in turns)
    rendered = renderer.render(Conversation(messages), "turn")
    stop = STOPS.get(name, "<|im_end|>")
    first, first_stop, second, second_stop = [span.text for span in rendered.spans if span.learn]
    assert (first_stop, second_stop) == (stop, stop)
    # Behind the prompt of inference the model also writes the reasoning, empty or not
    assert re.fullmatch(r"\s*(<think>\s*)?(</think>\s*)?\{\{ b \}\}", first)
    assert re.fullmatch(r"\s*(<think>\s*)?(</think>\s*)?\[d\]\n\ne", second)
    assert rendered.text == render(name, [{"role": r, "content": c} for r, c in turns])
