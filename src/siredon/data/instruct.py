"""One instruction and its answer: how the formats of this kind ask, and the text that a row becomes.

Nothing of a row is trimmed, and an answer ends in one stop token: in Axolotl, prompt and answer are tokenized apart
and cut to `sequence_len` each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from siredon.data.columns import read_column, read_filled, read_nullable, read_text
from siredon.data.types import Format, ReadOptions, Row, RowError, Span, Text


class Wording(NamedTuple):
    """How an instruction is asked.

    Args:
        with_input: The prompt, with places for `{instruction}` and `{input}`.
        without_input: The prompt where there is no input.
        system: What stands before it, with a place for `{system}`; left out where there is no such text.
    """

    with_input: str
    without_input: str
    system: str = "{system}"


class Preamble(NamedTuple):
    """What every prompt of a format says first: where there is an input, and where there is none."""

    with_input: str = ""
    without_input: str = ""


class Fields(NamedTuple):
    """What a row holds.

    Args:
        instruction: What is asked.
        response: The answer, which is learned.
        context: What the instruction is about; may be empty.
        system: How to behave; takes the place of the preamble.
    """

    instruction: str
    response: str
    context: str = ""
    system: str = ""


ReadFields = Callable[[Row], Fields]

#: Stanford Alpaca, 2023, https://github.com/tatsu-lab/stanford_alpaca.
ALPACA = Preamble(
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.",
)

#: Word behind the colon -> its wording.  `chatml` is that of OpenAI, `phi` that of the model card of Phi-3.
STYLES: Mapping[str, Wording] = {
    "instruct": Wording(
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n",
        "{system}\n\n",
    ),
    "chat": Wording(
        "USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:", "SYSTEM: {system}\n"
    ),
    "chatml": Wording(
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{system}<|im_end|>\n",
    ),
    "phi": Wording(
        "<|user|>\n{instruction}\n{input}<|end|>\n<|assistant|>\n",
        "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
        "<|system|>\n{system}<|end|>\n",
    ),
}


def build_instruct(
    read_fields: ReadFields,
    wording: Wording,
    preamble: Preamble = Preamble(),  # noqa: B008 - frozen
    variants: Mapping[str, Format] | None = None,
) -> Format:
    """A format of one instruction and its answer.

    Args:
        read_fields: A row -> what it holds.  Raises `RowError`.
        wording: How it is asked.
        preamble: What every prompt says first.
        variants: The formats behind a dot or a colon.
    """

    def read(row: Row, options: ReadOptions) -> Text:
        fields = read_fields(row)
        return answer_text(ask(fields, wording, preamble), fields.response, options)

    def prompt(text: str) -> Text:
        return prompt_text(ask(Fields(text, ""), wording, preamble))

    return Format(read=read, prompt=prompt, variants=variants or {})


def build_styles(read_fields: ReadFields, preamble: Preamble) -> dict[str, Format]:
    """The same format in every style: the variants behind a colon."""
    return {name: build_instruct(read_fields, wording, preamble) for name, wording in STYLES.items()}


def fields_of(instruction: str, response: str, *, context: str = "", system: str = "") -> ReadFields:
    """A reader of columns by their names.

    Args:
        instruction: Column of the instruction.
        response: Column of the answer.
        context: Column of the input, which a row may lack; empty for none.
        system: Column of the system's words, which may be null; empty for none.
    """

    def read_fields(row: Row) -> Fields:
        return Fields(
            read_filled(row, instruction),
            read_filled(row, response),
            read_text(row, context, required=False) if context else "",
            read_nullable(row, system) if system else "",
        )

    return read_fields


def ask(fields: Fields, wording: Wording, preamble: Preamble = Preamble()) -> str:  # noqa: B008 - frozen
    """The prompt of a row, up to where the answer begins."""
    form, before = (
        (wording.with_input, preamble.with_input)
        if fields.context
        else (wording.without_input, preamble.without_input)
    )
    system = fields.system or before
    block = wording.system.format(system=system) if system else ""
    return block + form.format(instruction=fields.instruction, input=fields.context)


def answer_text(prompt: str, answer: str, options: ReadOptions) -> Text:
    """The prompt, not learned unless `train_on_inputs`; the answer and one stop token, learned."""
    spans = (Span(prompt, options.train_on_inputs), Span(answer, True))
    return Text(spans, add_eos=needs_stop(answer, options))


def needs_stop(text: str, options: ReadOptions) -> bool:
    """Whether a stop token must be added: a text that ends with it already gets no second one."""
    return not (options.eos and text.endswith(options.eos))


def prompt_text(prompt: str) -> Text:
    """A prompt after which the model answers."""
    return Text((Span(prompt, False),), add_eos=False)


def read_choices(row: Row) -> Fields:
    """A question with its choices as a list, and what is said to it: the `solution`, or else the `explanation`.

    Raises:
        RowError: A column is missing or holds something else.
    """
    choices = read_column(row, "choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(item, str) for item in choices):
        raise RowError("column `choices` holds no list of texts")
    answer = "explanation" if row.get("solution") is None and "explanation" in row else "solution"
    return Fields(
        read_filled(row, "question"),
        read_filled(row, answer),
        "\n".join(f'- "{choice}"' for choice in choices),
    )
