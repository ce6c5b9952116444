"""`/history`: what was said."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """All messages."""
    del rest
    parts = []
    for side in talk.sides:
        parts += [f"[{side.name}]"] if len(talk.sides) > 1 else []
        parts += [f"{message['role']}: {message['content']}" for message in talk.full(side)]
    return Reply("\n".join(parts) or "Nothing was said.")


COMMAND = Command("/history", "Show what was said.", run)
