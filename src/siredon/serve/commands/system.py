"""`/system [TEXT|off]`: the system message."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Shows or changes the system message, of what was said already, too.

    Raises:
        DataError: The format has no place for one.
    """
    if not rest:
        return Reply(talk.system or "No system message is set; the chat template may have one of its own.")
    talk.phrasing.check_system()
    talk.system = "" if rest == "off" else rest
    return Reply(f"System message: {talk.system}" if talk.system else "No system message.")


COMMAND = Command("/system [TEXT|off]", "Show or change the system message.", run)
