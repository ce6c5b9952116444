"""The formats of judged answers that a chat template renders: the columns of published data sets, over any template."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from siredon.data.conversation import MESSAGE_KEYS, TEMPLATE_KEYS
from siredon.data.formats.chat_template import render_prompt
from siredon.data.judged_rows import read_conversation, read_question
from siredon.data.types import Format, Judged, ReadOptions, Row, Template

ReadJudged = Callable[[Row, ReadOptions], Judged]


def _read_in(prompt: str) -> ReadJudged:
    """A reader of rows whose question is in a column."""

    def read(row: Row, options: ReadOptions) -> Judged:
        return read_question(row, options, prompt)

    return read


def read_default(row: Row, options: ReadOptions) -> Judged:
    """The prompt is in `field_messages`, the answer in `field_completion`, the judgement in `field_label`."""
    entry = options.entry
    return read_conversation(row, options, entry.field_messages, entry.field_completion, entry.field_label)


def read_whole(row: Row, options: ReadOptions) -> Judged:
    """The whole conversation is in `field_completion`; its last message is the answer."""
    entry = options.entry
    return read_conversation(row, options, entry.field_completion, None, entry.field_label)


#: Word behind the dot -> what reads such rows, whatever the template.
LAYOUTS: Mapping[str, ReadJudged] = {
    "argilla": _read_in("instruction"),
    "argilla_chat": read_whole,
    "intel": _read_in("question"),
    "prompt_pairs": _read_in("prompt"),
    "ultra": _read_in("prompt"),
}


def build_judged_format(
    read: ReadJudged, template: Template | None = None, variants: Mapping[str, Format] | None = None
) -> Format:
    """A format of judged answers that a chat template renders.

    Args:
        read: A row -> its answer and judgement.
        template: The template; None for that of the data set.
        variants: The formats behind the dot.
    """
    reads: tuple[str, ...] = ("field_completion", "field_label", *MESSAGE_KEYS)
    reads += () if template else TEMPLATE_KEYS
    reads += ("field_messages",) if read is read_default else ()
    return Format(
        read=read,
        prompt=render_prompt,
        uses_template=True,
        template=template,
        variants=variants or {},
        reads=reads,
    )


def build_words(template: Template | None) -> dict[str, Format]:
    """The formats behind the dot, over a template: `chatml.intel`, `llama3.ultra`."""
    return {name: build_judged_format(read, template) for name, read in LAYOUTS.items()}
