"""A prompt as the model was taught to read it, and the tokens that end its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.data.prepare import build_format, entry_renderer
from siredon.data.render import Renderer
from siredon.data.types import Conversation, Message


@dataclass(frozen=True)
class Prompting:
    """How a model is asked.

    Args:
        render: What a user types -> the text after which the model answers.
        stop_ids: Tokens that end an answer: the tokenizer's own and the chat template's.
    """

    render: Callable[[str], str]
    stop_ids: tuple[int, ...]


def build_prompting(entry: DatasetEntry, chat_template: str | None, tokenizer: Any) -> Prompting:
    """How a model trained on `entry` is asked."""
    part = build_format(entry)
    renderer = entry_renderer(entry, chat_template, tokenizer)
    stops = {tokenizer.eos_token, _find_stop(renderer)} - {None}
    ids = sorted(tokenizer.convert_tokens_to_ids(str(token)) for token in stops)
    return Prompting(lambda text: renderer.render_prompt(part.prompt(text)), tuple(ids))


def _find_stop(renderer: Renderer) -> str | None:
    """The token with which the chat template ends an answer, if it has one."""
    if renderer.template is None:
        return None
    turns = [("user", "x", False), ("assistant", "y", True)]
    messages = tuple(
        Message({"role": role, "content": text}, role, text, learn) for role, text, learn in turns
    )
    learned = [span.text for span in renderer.render(Conversation(messages), "turn").spans if span.learn]
    return learned[-1] if len(learned) == 2 else None
