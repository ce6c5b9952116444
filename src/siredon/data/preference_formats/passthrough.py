"""`type: passthrough`: `prompt`, `chosen` and `rejected` as they stand, with no template.

`passthrough.default` is the same.  The tokenizer's first token is set before the prompt where it uses one, and its
stop token behind the answers, unless they are there already.
"""

from __future__ import annotations

from siredon.data.columns import read_filled
from siredon.data.instruct import needs_stop, prompt_text
from siredon.data.pair_rows import EMPTY
from siredon.data.types import Format, LeftOut, Preference, ReadOptions, Row, RowError, Span, Text


def read_strings(row: Row, options: ReadOptions) -> Preference:
    """The texts of `prompt`, `field_chosen` and `field_rejected`."""
    prompt = read_filled(row, "prompt")
    begin = "" if options.bos and prompt.startswith(options.bos) else options.bos

    def read_side(name: str) -> Text:
        answer = read_answer(row, name)
        end = options.eos if needs_stop(answer, options) else ""
        # A row writes its own template, so its special tokens are meant
        spans = (Span(begin + prompt, False), Span(answer + end, True))
        return Text(spans, add_bos=False, add_eos=False)

    return Preference(read_side(options.entry.field_chosen), read_side(options.entry.field_rejected))


def read_answer(row: Row, name: str) -> str:
    """The text of an answer.

    Raises:
        RowError: There is none.
        LeftOut: It is empty.
    """
    if name in row and not isinstance(row[name], str):
        raise RowError(
            f"column `{name}` holds {type(row[name]).__name__}, not text (messages are `type: chat_template`)"
        )
    if name in row and not row[name].strip():
        raise LeftOut(EMPTY)
    return read_filled(row, name)


_DEFAULT = Format(read=read_strings, prompt=prompt_text, reads=("field_chosen", "field_rejected"))
FORMAT = Format(read=read_strings, prompt=prompt_text, variants={"default": _DEFAULT}, reads=_DEFAULT.reads)
