"""`/new`: begins anew."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Forgets what was said."""
    del rest
    talk.clear()
    return Reply("A new conversation.")


COMMAND = Command("/new", "Begin a new conversation; system message and settings stay.", run)
