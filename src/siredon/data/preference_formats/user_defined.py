"""`type: {prompt_format: ...}`: a prompt of your own around the columns of a row, and two answers.

A text of the column `field_system` stands where `{system}` does in `prompt_format`, in the words of `system_format`,
which are left out where there is none.  In Axolotl, a row without one fails where `{system}` is asked for, and the
prompt of every other row is read from `prompt` whatever `field_prompt` says.
"""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.columns import read_column, read_filled, read_text
from siredon.data.instruct import needs_stop
from siredon.data.preference_formats.passthrough import read_answer
from siredon.data.types import Format, Preference, ReadOptions, Row, Span, Text
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

    def read(row: Row, options: ReadOptions) -> Preference:
        return read_pair(row, options, form)

    def prompt(text: str) -> Text:
        return Text((Span(_ask(text, form.system_prompt, form), False),), add_eos=False)

    return Format(read=read, prompt=prompt, reads=())


def read_pair(row: Row, options: ReadOptions, form: PromptFormat) -> Preference:
    """The columns of a row, in the words of the mapping; both answers end alike unless it says otherwise."""
    prompt = _ask(read_filled(row, form.field_prompt), _read_system(row, form), form)
    better, worse = read_answer(row, form.field_chosen), read_answer(row, form.field_rejected)
    chosen = form.chosen_format.format(chosen=better)
    if form.rejected_format is None:
        rejected = form.chosen_format.format(chosen=worse)
    else:
        rejected = form.rejected_format.format(rejected=worse)
    return Preference(_text(prompt, chosen, options), _text(prompt, rejected, options))


def _text(prompt: str, answer: str, options: ReadOptions) -> Text:
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


FORMAT = build_user_defined
