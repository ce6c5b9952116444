"""`/undo`: takes the newest question back."""

from __future__ import annotations

from siredon.errors import DataError
from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Takes the newest question and its answer back.

    Raises:
        DataError: Nothing was asked.
    """
    del rest
    question = talk.undo()
    if question is None:
        raise DataError("nothing was asked", "Ask first.")
    return Reply(f"Taken back: {question}")


COMMAND = Command("/undo", "Take the newest question and its answer back.", run)
