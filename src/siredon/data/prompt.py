"""A prompt as the model was taught to read it, and the tokens that end its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siredon.config.schema import Config
from siredon.config.sections.data import DatasetEntry
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.config.shelves import FORMATS
from siredon.data.choose import choose_format
from siredon.data.template import entry_renderer, set_template_
from siredon.registry import Shelf


@dataclass(frozen=True)
class Prompting:
    """How a model is asked.

    Args:
        render: What a user types -> the text after which the model answers.
        stop_ids: Tokens that end an answer: the tokenizer's own and the chat template's.
    """

    render: Callable[[str], str]
    stop_ids: tuple[int, ...]


def build_prompting(
    entry: DatasetEntry, section: TokenizerSection, tokenizer: Any, shelf: Shelf = FORMATS
) -> Prompting:
    """How a model trained on `entry` is asked."""
    part = choose_format(entry, shelf)
    renderer = entry_renderer(entry, section, tokenizer, shelf)
    ids = sorted(tokenizer.convert_tokens_to_ids(token) for token in renderer.stops)
    return Prompting(lambda text: renderer.render_prompt(part.prompt(text)), tuple(ids))


def set_prompting_(tokenizer: Any, config: Config) -> Prompting:
    """How the trained model is asked; the tokenizer that is saved beside it gets the chat template it learned.

    Args:
        tokenizer: After the data is prepared, as another data set may be rendered by its own template.
        config: Data sets and templates.

    Raises:
        DataError: A template that cannot be found or read.
    """
    shelf = config.preference.formats
    prompting = build_prompting(config.first_dataset, config.tokenizer, tokenizer, shelf)
    set_template_(tokenizer, (config.first_dataset, *config.data.datasets), config.tokenizer, shelf)
    return prompting
