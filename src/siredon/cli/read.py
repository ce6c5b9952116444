"""The first step of every verb: the config, or every problem in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siredon.log import note

if TYPE_CHECKING:
    from siredon.config.schema import Config


def read_config(path: str) -> Config:
    """Loads a config, shows its warnings, and settles what must be settled before torch is imported.

    Raises:
        ConfigError: At least one error.
    """
    from siredon.config.diagnostics import show_text
    from siredon.config.load import load_config
    from siredon.hardware import set_thread_policy

    set_thread_policy()
    config, warnings = load_config(path)
    if warnings:
        note(show_text(warnings))
    return config
