"""`/quit`: ends the chat."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Ends the chat."""
    del talk, rest
    return Reply(then="quit")


COMMAND = Command("/quit", "End the chat; Ctrl-D does, too.", run)
