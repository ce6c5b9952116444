"""`/set [NAME VALUE]`: how tokens are chosen."""

from __future__ import annotations

from siredon.serve.command import Command, Reply
from siredon.serve.settings import change_setting, describe_settings
from siredon.serve.talk import Talk


def run(talk: Talk, rest: str) -> Reply:
    """Shows the settings, or changes one.

    Raises:
        DataError: No such setting, or a value out of its range.
    """
    name, _, text = rest.replace("=", " ", 1).partition(" ")
    if rest:
        talk.sampling = change_setting(talk.sampling, name, text.strip())
    shown = [(key, value) for key, value in describe_settings(talk.sampling) if not rest or key == name]
    return Reply("\n".join(f"{key} = {value}" for key, value in shown))


COMMAND = Command("/set [NAME VALUE]", "Show or change how tokens are chosen: /set temperature 0.7", run)
