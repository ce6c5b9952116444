"""A prompt as the model was taught to read it, and the tokens that end its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.choose import choose_format
from siredon.data.template import entry_renderer


@dataclass(frozen=True)
class Prompting:
    """How a model is asked.

    Args:
        render: What a user types -> the text after which the model answers.
        stop_ids: Tokens that end an answer: the tokenizer's own and the chat template's.
    """

    render: Callable[[str], str]
    stop_ids: tuple[int, ...]


def build_prompting(entry: DatasetEntry, section: TokenizerSection, tokenizer: Any) -> Prompting:
    """How a model trained on `entry` is asked."""
    part = choose_format(entry)
    renderer = entry_renderer(entry, section, tokenizer)
    ids = sorted(tokenizer.convert_tokens_to_ids(token) for token in renderer.stops)
    return Prompting(lambda text: renderer.render_prompt(part.prompt(text)), tuple(ids))
