"""`/help`: lists the commands."""

from __future__ import annotations

from siredon.serve.command import COMMANDS, Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Each command and what it does."""
    del talk, rest
    commands: list[Command] = [COMMANDS.load(name) for name in COMMANDS.names()]
    width = max(len(command.usage) for command in commands)
    lines = [f"{command.usage:<{width}}  {command.about}" for command in commands]
    return Reply(
        "\n".join([*lines, "A line that ends with \\ goes on with the next one; // begins a text with a /."])
    )


COMMAND = Command("/help", "List the commands.", run)
