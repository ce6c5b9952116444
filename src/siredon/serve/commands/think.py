"""`/think [on|off|default]`: whether the model thinks before it answers."""

from __future__ import annotations

from siredon.errors import DataError
from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk

_WORDS = {"on": True, "off": False, "default": None}


def run(talk: Talk, rest: str) -> Reply:
    """Shows or changes the variable of the chat template that switches thinking.

    Raises:
        DataError: The chat template has no such variable, or the word is none of the three.
    """
    switch = talk.phrasing.switch
    if not switch:
        raise DataError(
            "the chat template has no switch for thinking (`enable_thinking`)",
            "Ask the model in words, or in a `/system` message.",
        )
    if rest and rest not in _WORDS:
        raise DataError(f"`/think {rest}`: thinking is `on`, `off` or `default`", "Write one of them.")
    if rest:
        talk.thinking = _WORDS[rest]
    word = next(name for name, value in _WORDS.items() if value == talk.thinking)
    return Reply(f"Thinking: {word} (`{switch}` of the chat template).")


COMMAND = Command("/think [on|off|default]", "Let the model think before it answers, or not.", run)
