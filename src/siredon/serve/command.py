"""What a command of the chat is; the commands are in `commands/`, one file each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from siredon.registry import Shelf, suggest
from siredon.serve.talk import Talk

COMMANDS = Shelf("siredon.serve.commands", "COMMAND", "/")


@dataclass(frozen=True)
class Reply:
    """What becomes of a command.

    Args:
        text: What is said to it; empty for nothing.
        then: What the chat does next.
    """

    text: str = ""
    then: Literal["", "quit", "retry"] = ""


@dataclass(frozen=True)
class Command:
    """A part of the shelf `commands`.

    Args:
        usage: How it is typed.
        about: What it does, in a line.
        run: The conversation and the words behind the command -> what becomes of it.  Raises `DataError`.
    """

    usage: str
    about: str
    run: Callable[[Talk, str], Reply]


def run_command(talk: Talk, line: str) -> Reply:
    """Runs what was typed behind a `/`.

    Raises:
        DataError: A command that cannot be done so.
    """
    word, _, rest = line.strip().partition(" ")
    word = {"exit": "quit", "?": "help"}.get(word, word)
    names = COMMANDS.names()
    if word not in names:
        near = suggest(word, names).replace("`", "`/", 1)
        return Reply(
            f"There is no command `/{word}`. {near}`/help` lists them; `//` begins a text with a `/`."
        )
    command: Command = COMMANDS.load(word)
    return command.run(talk, rest.strip())
