"""The formats of pairs that a chat template renders: the layouts of columns, each over one template."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from siredon.data.conversation import MESSAGE_KEYS, TEMPLATE_KEYS
from siredon.data.formats.chat_template import render_prompt
from siredon.data.pair_rows import (
    COMMON,
    ICR,
    INTEL,
    PROMPT_PAIRS,
    Layout,
    read_columns,
    read_default,
    read_ranked,
    read_ultra,
    read_whole,
)
from siredon.data.types import Format, Preference, ReadOptions, Row, Template

#: Keys of an entry that name the columns of its answers.
ANSWER_KEYS: tuple[str, ...] = ("field_chosen", "field_rejected")

ReadPair = Callable[[Row, ReadOptions], Preference]


def read_layout(layout: Layout) -> ReadPair:
    """A reader of columns."""

    def read(row: Row, options: ReadOptions) -> Preference:
        return read_columns(row, options, layout)

    return read


#: Word behind the dot -> what reads such rows, whatever the template.
LAYOUTS: Mapping[str, ReadPair] = {
    "icr": read_layout(ICR),
    "intel": read_layout(INTEL),
    "prompt_pairs": read_layout(PROMPT_PAIRS),
    "ultra": read_ultra,
    "argilla_chat": read_whole,
}


def build_pair_format(
    read: ReadPair, template: Template | None = None, variants: Mapping[str, Format] | None = None
) -> Format:
    """A format of pairs that a chat template renders.

    Args:
        read: A row -> its pair.
        template: The template; None for that of the data set.
        variants: The formats behind the dot.
    """
    reads: tuple[str, ...] = MESSAGE_KEYS if template else (*MESSAGE_KEYS, *TEMPLATE_KEYS)
    reads += () if read is read_ranked else ANSWER_KEYS
    reads += ("field_messages",) if read is read_default else ()
    return Format(
        read=read,
        prompt=render_prompt,
        uses_template=True,
        variants=variants or {},
        template=template,
        reads=reads,
    )


def build_words(template: Template) -> Format:
    """The formats of a template that is named before the dot: `chatml.intel`, `llama3.ultra`."""
    common = read_layout(COMMON)
    readers = {"default": common, "argilla": common, **LAYOUTS}
    variants = {name: build_pair_format(read, template) for name, read in readers.items()}
    return build_pair_format(common, template, variants)
