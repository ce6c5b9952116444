from __future__ import annotations

from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.formats.alpaca import FORMAT as ALPACA
from siredon.data.formats.chat_template import FORMAT as CHAT
from siredon.data.formats.completion import FORMAT as COMPLETION
from siredon.data.formats.input_output import FORMAT as INPUT_OUTPUT
from siredon.data.types import Conversation, ReadOptions, RowError, Span, Text


def options(kind: str, *, train_on_inputs: bool = False, **keys: Any) -> ReadOptions:
    return ReadOptions(DatasetEntry.model_validate({"path": "x", "type": kind, **keys}), train_on_inputs)


def test_alpaca_with_and_without_input():
    with_input = ALPACA.read({"instruction": "Add.", "input": "1 2", "output": "3"}, options("alpaca"))
    assert isinstance(with_input, Text)
    assert with_input.spans[0] == Span(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n",
        False,
    )
    assert with_input.spans[1] == Span("3", True)
    without = ALPACA.read({"instruction": "Hi", "input": None, "output": "Ho"}, options("alpaca"))
    assert isinstance(without, Text)
    assert "### Input" not in without.spans[0].text
    assert ALPACA.prompt("Hi").spans[0].text == without.spans[0].text


def test_alpaca_learns_prompts_only_when_asked():
    read = ALPACA.read({"instruction": "Hi", "output": "Ho"}, options("alpaca", train_on_inputs=True))
    assert isinstance(read, Text)
    assert [span.learn for span in read.spans] == [True, True]


def test_a_missing_column_names_the_columns_that_are_there():
    with pytest.raises(RowError, match="no column `instruction`; it has `question`, `answer`"):
        ALPACA.read({"question": "a", "answer": "b"}, options("alpaca"))


def test_a_column_that_holds_no_text_is_refused():
    with pytest.raises(RowError, match="`output` holds int, not text"):
        ALPACA.read({"instruction": "a", "output": 3}, options("alpaca"))


def test_completion_reads_the_named_column_and_may_be_split():
    read = COMPLETION.read({"body": "long"}, options("completion", field="body"))
    assert read == Text((Span("long", True),), split=True)
    with pytest.raises(RowError, match="empty"):
        COMPLETION.read({"text": ""}, options("completion"))


def test_input_output_learns_the_marked_segments_and_adds_nothing():
    segments = [{"label": False, "text": "a"}, {"label": True, "text": "b"}]
    read = INPUT_OUTPUT.read({"segments": segments}, options("input_output"))
    assert read == Text((Span("a", False), Span("b", True)), add_bos=False, add_eos=False)


@pytest.mark.parametrize("segments", [None, [], [{"text": "a"}], [{"label": True}], ["a"]])
def test_broken_segments_are_refused(segments: Any):
    with pytest.raises(RowError):
        INPUT_OUTPUT.read({"segments": segments}, options("input_output"))


def test_sharegpt_names_are_understood_without_further_keys():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    read = CHAT.read(row, options("chat_template", field_messages="conversations"))
    assert isinstance(read, Conversation)
    assert [(m.role, m.content, m.learn) for m in read.messages] == [
        ("user", "a", False),
        ("assistant", "b", True),
    ]


def test_roles_mappings_and_roles_to_train_are_followed():
    row = {"chat": [{"who": "bot", "says": "b"}, {"who": "judge", "says": "c"}]}
    keys = {
        "field_messages": "chat",
        "message_property_mappings": {"role": "who", "content": "says"},
        "roles": {"assistant": ["bot"], "critic": ["judge"]},
        "roles_to_train": ["critic"],
    }
    read = CHAT.read(row, options("chat_template", **keys))
    assert isinstance(read, Conversation)
    assert [(m.role, m.learn) for m in read.messages] == [("assistant", False), ("critic", True)]
    assert read.messages[0].properties == {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "no list of messages"),
        ({"messages": "no json"}, "no JSON"),
        ({"messages": ["a"]}, "message 1 is no object"),
        ({"messages": [{"role": "user"}]}, r"message 1 has no text in `content` \(its content\)"),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            r"no message that is learned \(of a role among: assistant\)",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": [1]}]},
            "tool call without a `name`",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}], "tools": [1]}, "a tool without a `name`"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "tools": "[{"},
            "its tools hold text that is no JSON",
        ),
        ({"messages": [{"role": "assistant", "content": " "}]}, r"message 1 \(assistant\) is empty"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "part of type `image`"),
        ({"messages": [{"role": 5, "content": "a"}]}, "message 1 has no text in `role`"),
        (
            {"messages": [{"from": "function_call", "value": "{"}]},
            "message 1: its tool calls hold text that is no JSON",
        ),
    ],
)
def test_broken_conversations_are_refused_with_the_reason(row: Any, reason: str):
    with pytest.raises(RowError, match=reason):
        CHAT.read(row, options("chat_template"))


def test_messages_may_be_a_json_string():
    read = CHAT.read({"messages": '[{"role": "assistant", "content": "a"}]'}, options("chat_template"))
    assert isinstance(read, Conversation)
    assert read.messages[0].content == "a"
