"""The chat template that a saved tokenizer has: that of the first data set with one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.template import set_template_
from siredon.data.templates.chatml import TEMPLATE as CHATML
from siredon.data.templates.llama3 import TEMPLATE as LLAMA3

CHAT = {"path": "rows.jsonl", "type": "chat_template"}
ALPACA = {"path": "rows.jsonl", "type": "alpaca"}
TOOLS = {"default": CHATML.source, "tool_use": "{{ tools }}"}


@pytest.mark.parametrize(
    ("own", "entries", "named", "saved"),
    [
        (None, [CHAT], "chatml", CHATML.source),
        (LLAMA3.source, [CHAT], "chatml", CHATML.source),
        (None, [ALPACA, CHAT], "chatml", CHATML.source),
        (LLAMA3.source, [{**CHAT, "chat_template": "chatml"}, CHAT], "llama3", CHATML.source),
        (LLAMA3.source, [CHAT], None, LLAMA3.source),
        (LLAMA3.source, [ALPACA], None, LLAMA3.source),
        (None, [ALPACA], None, None),
        (TOOLS, [CHAT], "chatml", TOOLS),
        (TOOLS, [CHAT], "llama3", LLAMA3.source),
    ],
)
def test_a_tokenizer_gets_the_template_of_training(
    own: Any, entries: list[Any], named: str | None, saved: Any
):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = own
    set_template_(
        tokenizer,
        [DatasetEntry.model_validate(entry) for entry in entries],
        TokenizerSection(chat_template=named),
    )
    assert tokenizer.chat_template == saved
