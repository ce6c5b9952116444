"""`type: {prompt_format: ...}`: a prompt of your own around the columns of a row, and two answers.

A text of the column `field_system` stands where `{system}` does in `prompt_format`, in the words of `system_format`,
which are left out where there is none.  In Axolotl, a row without one fails where `{system}` is asked for, and the
prompt of every other row is read from `prompt` whatever `field_prompt` says.
"""

from __future__ import annotations

from siredon.config.sections.data import DatasetEntry, PromptFormat
from siredon.data.own_prompt import find_mapping, lay_answer, read_prompt, write_prompt
from siredon.data.preference_formats.passthrough import read_answer
from siredon.data.types import Format, Preference, ReadOptions, Row, Text


def build_user_defined(entry: DatasetEntry) -> Format:
    """The format that a mapping describes.

    Raises:
        DataError: `type` is no mapping.
    """
    form = find_mapping(entry)

    def read(row: Row, options: ReadOptions) -> Preference:
        return read_pair(row, options, form)

    def prompt(text: str) -> Text:
        return write_prompt(text, form)

    return Format(read=read, prompt=prompt, reads=())


def read_pair(row: Row, options: ReadOptions, form: PromptFormat) -> Preference:
    """The columns of a row, in the words of the mapping; both answers end alike unless it says otherwise."""
    prompt = read_prompt(row, form)
    better, worse = read_answer(row, form.field_chosen), read_answer(row, form.field_rejected)
    chosen = form.chosen_format.format(chosen=better)
    if form.rejected_format is None:
        rejected = form.chosen_format.format(chosen=worse)
    else:
        rejected = form.rejected_format.format(rejected=worse)
    return Preference(lay_answer(prompt, chosen, options), lay_answer(prompt, rejected, options))


FORMAT = build_user_defined
