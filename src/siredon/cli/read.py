"""The first step of every verb: the config, or every problem in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siredon.log import note

if TYPE_CHECKING:
    from siredon.config.schema import Config


def read_config(path: str) -> Config:
    """Loads a config and shows its warnings.

    Raises:
        ConfigError: At least one error.
    """
    from siredon.config.diagnostics import show_text
    from siredon.config.load import load_config

    config, warnings = load_config(path)
    if warnings:
        note(show_text(warnings))
    return config
