"""`type: {prompt_format: ...}`: a prompt of your own around the columns of a row, one answer, and its judgement."""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.columns import read_column, read_filled, read_text
from siredon.data.instruct import needs_stop
from siredon.data.judged_rows import EMPTY, read_label
from siredon.data.types import Format, Judged, LeftOut, ReadOptions, Row, Span, Text
from siredon.errors import DataError


def build_user_defined(entry: DatasetEntry) -> Format:
    """The format that a mapping describes.

    Raises:
        DataError: `type` is no mapping.
    """
    form = entry.type
    if not isinstance(form, PromptFormat):
        message = f"{entry.path}: `type: user_defined` does not say what the prompt is"
        raise DataError(message, "Give `type` a mapping.")

    def read(row: Row, options: ReadOptions) -> Judged:
        return read_judged(row, options, form)

    def prompt(text: str) -> Text:
        return Text((Span(_ask(text, form.system_prompt, form), False),), add_eos=False)

    return Format(read=read, prompt=prompt, reads=())


def read_judged(row: Row, options: ReadOptions, form: PromptFormat) -> Judged:
    """The columns of a row, in the words of the mapping."""
    is_desirable = read_label(row, form.field_label)
    prompt = _ask(read_filled(row, form.field_prompt), _read_system(row, form), form)
    completion = read_text(row, form.field_completion)
    if not completion.strip():
        raise LeftOut(EMPTY)
    answer = form.completion_format.format(completion=completion)
    begins = bool(options.bos) and prompt.startswith(options.bos)
    spans = (Span(prompt, False), Span(answer, True))
    return Judged(Text(spans, add_bos=not begins, add_eos=needs_stop(answer, options)), is_desirable)


def _ask(prompt: str, system: str, form: PromptFormat) -> str:
    block = form.system_format.format(system=system) if system else ""
    return form.prompt_format.format(system=block, prompt=prompt)


def _read_system(row: Row, form: PromptFormat) -> str:
    """The system text of a row; that of the mapping where it is missing or null, unless its column is named."""
    if "field_system" in form.model_fields_set:
        read_column(row, form.field_system)
    if row.get(form.field_system) is None:
        return form.system_prompt
    return read_text(row, form.field_system)


FORMAT = build_user_defined
