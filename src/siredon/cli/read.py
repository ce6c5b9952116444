"""The first step of every verb: the config, or every problem in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siredon.cli.options import read_words
from siredon.log import note

if TYPE_CHECKING:
    from siredon.config.schema import Config


def read_config(words: list[str] | None) -> Config:
    """Loads the config of a command line, shows its warnings, and settles what must be before torch is imported.

    Raises:
        ConfigError: At least one error.
    """
    from siredon.config.diagnostics import show_text
    from siredon.config.load import load_config
    from siredon.hardware import set_thread_policy

    (path,), layer = read_words(words)
    set_thread_policy()
    config, warnings = load_config(path, [layer])
    if warnings:
        note(show_text(warnings))
    return config
