"""Messages in all spellings come to one form, with what of them is learned."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.conftest import SHARED_DATA
from tests.unit.data.test_formats import options

from siredon.data.formats.chat_template import FORMAT
from siredon.data.messages import split_reasoning
from siredon.data.render import Rendered, build_renderer
from siredon.data.types import Conversation, RowError

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def read(row: dict[str, Any], **keys: Any) -> Conversation:
    found = FORMAT.read(row, options("chat_template", **keys))
    assert isinstance(found, Conversation)
    return found


def learned(rendered: Rendered) -> str:
    return "".join(span.text for span in rendered.spans if span.learn)


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"name": "add", "arguments": {"a": 1}},
        {"name": "add", "parameters": {"a": 1}},
        {"function": {"name": "add", "arguments": '{"a": 1}'}},
        '{"name": "add", "arguments": {"a": 1}}',
    ],
    ids=str,
)
def test_a_tool_call_in_any_spelling_is_one(call: Any):
    talk = read({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]})
    assert talk.messages[1].properties["tool_calls"] == [CALL]
    assert talk.messages[1].content == ""


def test_rows_of_sharegpt_with_calls_and_observations_are_calls_and_results():
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "two"},
    ]
    tools = json.dumps([{"name": "add", "parameters": {"type": "object"}}])
    talk = read({"conversations": turns, "tools": tools}, field_messages="conversations")
    assert [message.role for message in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert talk.messages[1].properties["tool_calls"] == [CALL]
    assert talk.tools == (
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
    )


def test_parts_become_text_reasoning_and_calls():
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "text": "yes"},
        {"type": "tool_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
    ]
    (message,) = read({"messages": [{"role": "assistant", "content": parts}]}).messages
    assert message.content == "yes"
    assert message.properties["reasoning_content"] == "hm"
    assert message.properties["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        ("<think>\nhm\n</think>\n\nyes", "yes", "hm"),
        ("<reasoning>hm</reasoning>yes", "yes", "hm"),
        ("<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>yes<|end_of_solution|>", "yes", "hm"),
        ("yes", "yes", ""),
        ("a <think>b</think>", "a <think>b</think>", ""),
        ("<think>open", "<think>open", ""),
    ],
)
def test_reasoning_is_taken_out_of_the_content_by_its_tags(text: str, answer: str, thought: str):
    assert split_reasoning(text) == (answer, thought)
    row = {"messages": [{"role": "assistant", "content": text}]}
    message = read(row, split_thinking=True, template_thinking_key="thinking").messages[0]
    assert message.content == answer
    assert message.properties.get("thinking", "") == thought
    assert read(row).messages[0].content == text


def test_reasoning_in_a_property_of_its_own_goes_where_the_template_reads_it():
    row = {"messages": [{"role": "assistant", "content": "yes", "why": "hm"}]}
    message = read(row, field_thinking="why").messages[0]
    assert message.properties == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("item", "keys", "wanted"),
    [
        ({"content": "abcdef"}, {}, "abcdef<|im_end|>"),
        ({"content": "abcdef", "go": False}, {"message_field_training": "go"}, ""),
        ({"content": "abcdef", "go": 1}, {"message_field_training": "go"}, "abcdef<|im_end|>"),
        (
            {"content": "abcdef", "d": [{"begin_offset": 1, "end_offset": 2, "train": False}]},
            {"message_field_training_detail": "d"},
            "adef<|im_end|>",
        ),
        (
            {"content": "abcdef", "d": [{"begin_offset": 3, "end_offset": 5, "train": False}]},
            {"message_field_training_detail": "d"},
            "abc",
        ),
        (
            {"content": [{"type": "text", "text": "ab", "train": False}, {"type": "text", "text": "cd"}]},
            {},
            "cd<|im_end|>",
        ),
        (
            {"content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd", "weight": 0}]},
            {},
            "ab",
        ),
    ],
)
def test_flags_of_messages_parts_and_characters_decide_what_is_learned(
    tokenizer: Any, item: dict[str, Any], keys: dict[str, str], wanted: str
):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", **item}]
    turns += [{"role": "user", "content": "r"}, {"role": "assistant", "content": "last"}]
    renderer = build_renderer(tokenizer, tokenizer.chat_template)
    assert learned(renderer.render(read({"messages": turns}, **keys))) == wanted + "last<|im_end|>"


def test_a_flag_makes_a_message_of_another_role_learned(tokenizer: Any):
    turns = [{"role": "user", "content": "q", "go": True}, {"role": "assistant", "content": "a"}]
    talk = read({"messages": turns}, message_field_training="go")
    assert (
        learned(build_renderer(tokenizer, tokenizer.chat_template).render(talk)) == "q<|im_end|>a<|im_end|>"
    )


@pytest.mark.parametrize(
    "detail",
    [
        [{"begin_offset": 0, "end_offset": 9, "train": True}],
        [{"begin_offset": 0}],
        "[",
        [{"begin_offset": 0, "end_offset": 1, "train": "yes"}],
        [
            {"begin_offset": 0, "end_offset": 2, "train": True},
            {"begin_offset": 2, "end_offset": 3, "train": True},
        ],
    ],
)
def test_ranges_that_cannot_be_are_refused(detail: Any):
    with pytest.raises(RowError, match="message 1"):
        read(
            {"messages": [{"role": "assistant", "content": "abcd", "d": detail}]},
            message_field_training_detail="d",
        )


def test_a_system_column_and_dropping_the_system_message():
    row = {"system": "be brief", "messages": [{"role": "assistant", "content": "a"}]}
    assert [message.role for message in read(row).messages] == ["system", "assistant"]
    assert [message.role for message in read(row, drop_system_message=True).messages] == ["assistant"]


# Real rows

REAL = {
    "glaive_toolcall_en_demo.json": {"field_messages": "conversations"},
    "reason_tool_use_demo_50.jsonl": {},
}


def real_rows(name: str) -> list[dict[str, Any]]:
    text = (SHARED_DATA / name).read_text()
    rows: list[dict[str, Any]] = (
        json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    )
    return rows


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data folder is not beside this checkout")
@pytest.mark.parametrize("template", ["qwen3", "chatml", "qwen3_5", "mistral_v7_tekken", "nemotron_h"])
@pytest.mark.parametrize("name", REAL)
def test_real_calls_and_reasoning_are_fully_learned(tokenizer: Any, name: str, template: str):
    from siredon.config.shelves import TEMPLATES

    renderer = build_renderer(tokenizer, TEMPLATES.load(template).source)
    count = {"done": 0, "refused": 0}
    reasons: set[str] = set()
    for row in real_rows(name):
        talk = read(row, **REAL[name])
        try:
            rendered = renderer.render(talk)
        except RowError as error:
            reasons.add(str(error))
            count["refused"] += 1
            continue
        count["done"] += 1
        text = learned(rendered)
        for message in talk.messages:
            if message.role == "assistant":
                assert message.content.strip() in text
                for call in message.properties.get("tool_calls", ()):
                    assert call["function"]["name"] in text
            elif message.role == "tool" and len(message.content) > 40:
                assert message.content not in text
        thoughts = [
            m.properties["reasoning_content"] for m in talk.messages if "reasoning_content" in m.properties
        ]
        assert not thoughts or thoughts[-1].strip() in text
    assert count["done"] + count["refused"] == len(real_rows(name))
    # A template that shows no tools or no reasoning, or wants its own form of ids, says so
    assert all(re.search("tools|reasoning|refuses", reason) for reason in reasons)
    if template in ("qwen3", "qwen3_5", "nemotron_h"):
        assert count["refused"] == 0
