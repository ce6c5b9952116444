"""`type: alpaca`: instruction, optional input, output, in the wording of Stanford Alpaca.

Source: the prompt of the Stanford Alpaca release (2023), https://github.com/tatsu-lab/stanford_alpaca.
"""

from __future__ import annotations

from siredon.data.columns import read_text
from siredon.data.types import Format, ReadOptions, Row, Span, Text

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def read_alpaca(row: Row, options: ReadOptions) -> Text:
    """The prompt, not learned unless `train_on_inputs`; the output and its stop token, learned."""
    instruction = read_text(row, "instruction")
    context = read_text(row, "input", required=False)
    prompt = _render_prompt(instruction, context)
    return Text((Span(prompt, options.train_on_inputs), Span(read_text(row, "output"), True)))


def render_prompt(text: str) -> Text:
    """An instruction as the model was taught to read it."""
    return Text((Span(_render_prompt(text, ""), False),), add_eos=False)


def _render_prompt(instruction: str, context: str) -> str:
    if context:
        return _WITH_INPUT.format(instruction=instruction, input=context)
    return _WITHOUT_INPUT.format(instruction=instruction)


FORMAT = Format(read=read_alpaca, prompt=render_prompt)
