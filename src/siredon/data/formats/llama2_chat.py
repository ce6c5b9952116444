"""`type: llama2_chat`: conversations of human and gpt in the wording of Llama 2; the answers are learned.

Source: `chat_completion` of https://github.com/meta-llama/llama.  Each message is `{from, value}`; the first may be of
`system`, and is otherwise the system prompt published with Llama 2.  The tokens between turns are the tokenizer's.

In Axolotl, rows are padded to 4096 tokens and token ids exchanged, messages trimmed, the blank before the first
`[/INST]` is missing, another turn begins after the last one, and a row whose count of tokens does not come out learns
nothing.  A question at the end of a row, which Axolotl leaves out, stands here without being learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from siredon.data.columns import Turn, read_turns
from siredon.data.instruct import needs_stop, prompt_text
from siredon.data.types import Format, ReadOptions, Row, RowError, Span, Text

_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def read_llama2(row: Row, options: ReadOptions) -> Text:
    """The messages of `conversations`, in turns of one question and one answer."""
    turns = read_turns(row, "conversations", "from", "value")
    starts = turns[0].role == "system"
    system, talk = (turns[0].text, turns[1:]) if starts else (_SYSTEM, turns)
    _check_order(talk, 2 if starts else 1)
    spans: list[Span] = []
    for number, turn in enumerate(talk):
        if number % 2 == 0:
            begin = options.bos if number else ""
            question = _ask(turn.text, system if number == 0 else "")
            spans.append(Span(begin + question, options.train_on_inputs))
        else:
            stop = f" {options.eos}" if options.eos and needs_stop(turn.text, options) else ""
            spans.append(Span(f" {turn.text}{stop}", True))
    return Text(tuple(spans), add_eos=False)


def _check_order(talk: Sequence[Turn], first: int) -> None:
    """Human and gpt take turns, and gpt says something."""
    for number, turn in enumerate(talk):
        expected = "gpt" if number % 2 else "human"
        if _ROLES.get(turn.role) != expected:
            raise RowError(f"message {number + first} is from `{turn.role}`: expected {expected}")
    if len(talk) < 2:
        raise RowError("has no answer from gpt")


def _ask(question: str, system: str) -> str:
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    return f"[INST] {block}{question} [/INST]"


def render_prompt(text: str) -> Text:
    """A first question, after the system prompt of Llama 2."""
    return prompt_text(_ask(text, _SYSTEM))


FORMAT = Format(read=read_llama2, prompt=render_prompt)
