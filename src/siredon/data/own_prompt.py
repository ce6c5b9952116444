"""A prompt that the mapping of a data set describes, and answers behind it: of pairs, and of judged answers."""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.columns import read_column, read_filled, read_text
from siredon.data.instruct import needs_stop
from siredon.data.types import ReadOptions, Row, Span, Text
from siredon.errors import DataError


def find_mapping(entry: DatasetEntry) -> PromptFormat:
    """The mapping.

    Raises:
        DataError: `type` is none.
    """
    form = entry.type
    if not isinstance(form, PromptFormat):
        message = f"{entry.path}: `type: user_defined` does not say what the prompt is"
        raise DataError(message, "Give `type` a mapping.")
    return form


def read_prompt(row: Row, form: PromptFormat) -> str:
    """The prompt of a row, in the words of the mapping."""
    return _ask(read_filled(row, form.field_prompt), _read_system(row, form), form)


def write_prompt(text: str, form: PromptFormat) -> Text:
    """What somebody asks, in the same words."""
    return Text((Span(_ask(text, form.system_prompt, form), False),), add_eos=False)


def lay_answer(prompt: str, answer: str, options: ReadOptions) -> Text:
    """An answer, learned, behind its prompt."""
    begins = bool(options.bos) and prompt.startswith(options.bos)
    spans = (Span(prompt, False), Span(answer, True))
    return Text(spans, add_bos=not begins, add_eos=needs_stop(answer, options))


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
