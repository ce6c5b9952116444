"""`type: {field_instruction: ...}`: a prompt of your own around the columns of a row; the answer is learned.

Where `no_input_format` is not set, a row without input is asked by `format`, with nothing for `{input}`; in Axolotl,
it is then asked by `{instruction} ` whatever `format` says.  A column that the mapping names must be there.
"""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.columns import read_column, read_filled, read_text
from siredon.data.instruct import Fields, Wording, answer_text, ask, prompt_text
from siredon.data.types import Format, ReadOptions, Row, Text
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
    wording = wording_of(form)

    def read(row: Row, options: ReadOptions) -> Text:
        fields = read_fields(row, form)
        return answer_text(ask(fields, wording), fields.response, options)

    def prompt(text: str) -> Text:
        return prompt_text(ask(Fields(text, "", system=form.system_prompt), wording))

    return Format(read=read, prompt=prompt)


def wording_of(form: PromptFormat) -> Wording:
    """How an instruction is asked."""
    without_input = form.no_input_format
    if without_input is None:
        without_input = form.format if "format" in form.model_fields_set else "{instruction} "
    return Wording(form.format, without_input, form.system_format)


def read_fields(row: Row, form: PromptFormat) -> Fields:
    """The columns of a row.  A system text that is null is that of the mapping; one that is empty is none."""
    for name, column in (("field_input", form.field_input), ("field_system", form.field_system)):
        if name in form.model_fields_set:
            read_column(row, column)
    system = row.get(form.field_system)
    return Fields(
        read_filled(row, form.field_instruction),
        read_filled(row, form.field_output),
        read_text(row, form.field_input, required=False),
        form.system_prompt if system is None else read_text(row, form.field_system),
    )


FORMAT = build_user_defined
