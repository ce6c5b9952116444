"""`/retry`: asks the newest question again."""

from __future__ import annotations

from siredon.errors import DataError
from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Asks the newest question again.

    Raises:
        DataError: Nothing was asked.
    """
    del rest
    if not talk.questions:
        raise DataError("nothing was asked", "Ask first.")
    same = ""
    if talk.sampling.temperature == 0:
        same = "The likeliest token is taken each time: for another answer, `/set temperature 0.7`."
    elif talk.sampling.seed is not None:
        same = "The seed is set anew for each answer: for another one, `/set seed off`."
    return Reply(same, then="retry")


COMMAND = Command("/retry", "Ask the newest question again.", run)
