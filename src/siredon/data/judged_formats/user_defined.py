"""`type: {prompt_format: ...}`: a prompt of your own around the columns of a row, one answer, and its judgement."""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.columns import read_text
from siredon.data.judged_rows import EMPTY, read_label
from siredon.data.own_prompt import find_mapping, lay_answer, read_prompt, write_prompt
from siredon.data.types import Format, Judged, LeftOut, ReadOptions, Row, Text


def build_user_defined(entry: DatasetEntry) -> Format:
    """The format that a mapping describes.

    Raises:
        DataError: `type` is no mapping.
    """
    form = find_mapping(entry)

    def read(row: Row, options: ReadOptions) -> Judged:
        return read_judged(row, options, form)

    def prompt(text: str) -> Text:
        return write_prompt(text, form)

    return Format(read=read, prompt=prompt, reads=())


def read_judged(row: Row, options: ReadOptions, form: PromptFormat) -> Judged:
    """The columns of a row, in the words of the mapping."""
    is_desirable = read_label(row, form.field_label)
    prompt = read_prompt(row, form)
    completion = read_text(row, form.field_completion)
    if not completion.strip():
        raise LeftOut(EMPTY)
    answer = form.completion_format.format(completion=completion)
    return Judged(lay_answer(prompt, answer, options), is_desirable)


FORMAT = build_user_defined
