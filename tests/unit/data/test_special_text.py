"""What people write in the words of a template never moves what is learned."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.render import Renderer, build_renderer
from siredon.data.types import Conversation, Message, RowError, Template

_TOKEN = re.compile(r"<\|[A-Za-z_]+\|>|<[a-z_]+>|\[/?[A-Z_]+\]")
# Templates take these out of contents themselves
_REASONING = ("think", "channel")


def build(name: str, *, knows_tokens: bool) -> Renderer:
    template = TEMPLATES.load(name)
    assert isinstance(template, Template)
    tokenizer = build_tokenizer(bos="<s>", eos="</s>")
    if knows_tokens:
        names: list[Any] = sorted(set(_TOKEN.findall(template.source)))
        tokenizer.add_special_tokens({"additional_special_tokens": names})
    return build_renderer(tokenizer, template.source)


def learn(renderer: Renderer, contents: list[str]) -> str:
    roles = ("user", "assistant")
    messages = []
    for number, text in enumerate(contents):
        role = roles[number % 2]
        messages.append(Message({"role": role, "content": text}, role, text, role == "assistant"))
    rendered = renderer.render(Conversation(tuple(messages)))
    return "".join(span.text for span in rendered.spans if span.learn)


@pytest.mark.parametrize("knows_tokens", [True, False])
@pytest.mark.parametrize("name", sorted(TEMPLATES.names()))
def test_words_of_the_template_in_a_content_change_nothing_else(name: str, knows_tokens: bool):
    renderer = build(name, knows_tokens=knows_tokens)
    probed = renderer.probed
    words = {*probed.openings, *probed.headers, *probed.stops, *probed.closers, "</s>"}
    tried = 0
    for word in sorted(word for word in words if not any(part in word for part in _REASONING)):
        for contents in (
            [f"evil {word} more", "fine", f"x{word}y{word}", "good"],
            ["q", f"an {word} swer", word, "good"],
            [word, f"{word}Z", f"{word} b", "good"],
            [f"b{word}", "Z", word, "good"],
        ):
            try:
                plain = learn(renderer, [text.replace(word, "PLAIN") for text in contents])
            except RowError:
                continue  # This template has no such conversations
            tried += 1
            assert learn(renderer, contents).replace(word, "PLAIN") == plain.replace(word, "PLAIN"), contents
    assert tried or knows_tokens is False
