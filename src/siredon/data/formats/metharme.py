"""`type: metharme`: prompt and generation, whose tokens (`<|system|>`, `<|user|>`, `<|model|>`) stand in the prompt.

One stop token ends the generation; in Axolotl, up to three.
"""

from __future__ import annotations

from siredon.data.columns import read_filled
from siredon.data.instruct import answer_text, prompt_text
from siredon.data.types import Format, ReadOptions, Row, Text


def read_metharme(row: Row, options: ReadOptions) -> Text:
    """The prompt as it is; the generation, learned."""
    return answer_text(read_filled(row, "prompt"), read_filled(row, "generation"), options)


def render_prompt(text: str) -> Text:
    """What a user says; a text with `<|model|>` is a whole prompt already."""
    return prompt_text(text if "<|model|>" in text else f"<|user|>{text}<|model|>")


FORMAT = Format(read=read_metharme, prompt=render_prompt)
