"""`type: pygmalion`: conversations of system, human and bot; what the bot says is learned, and a stop token after it.

Each message is `{role, value}`.  The mark `<START>` at the end of a system message is left out, as in Axolotl, which
trims every message besides; here nothing else is.
"""

from __future__ import annotations

from siredon.data.columns import Turn, read_turns
from siredon.data.instruct import needs_stop, prompt_text
from siredon.data.types import Format, ReadOptions, Row, RowError, Span, Text

_START = "\n<START>"


def read_pygmalion(row: Row, options: ReadOptions) -> Text:
    """The messages of `conversations`, each behind the token of its role."""
    turns = read_turns(row, "conversations", "role", "value")
    if all(turn.role != "bot" for turn in turns):
        raise RowError("has no message of the role that is learned (bot)")
    spans = [span for number, turn in enumerate(turns, 1) for span in _render(number, turn, options)]
    return Text(tuple(spans), add_eos=False)


def _render(number: int, turn: Turn, options: ReadOptions) -> list[Span]:
    learn = options.train_on_inputs
    if turn.role == "system":
        return [Span(f"<|system|>Persona: {turn.text.removesuffix(_START)}", learn)]
    if turn.role == "human":
        return [Span(f"<|user|> {turn.text}", learn)]
    if turn.role == "bot":
        stop = options.eos if needs_stop(turn.text, options) else ""
        return [Span("<|model|>", learn), Span(f" {turn.text}{stop}", True)]
    raise RowError(f"message {number} is of the role `{turn.role}`: expected system, human or bot")


def render_prompt(text: str) -> Text:
    """What a human says."""
    return prompt_text(f"<|user|> {text}<|model|>")


FORMAT = Format(read=read_pygmalion, prompt=render_prompt)
