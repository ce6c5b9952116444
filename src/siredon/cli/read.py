"""The first step of every verb: the config, or every problem in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from siredon.cli.options import read_words
from siredon.log import note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from siredon.config.diagnostics import Diagnostic
    from siredon.config.layers import Layer
    from siredon.config.schema import Config


def read_config(words: list[str] | None) -> Config:
    """Loads the config of a command line, shows its warnings, and settles what must be before torch is imported.

    Raises:
        ConfigError: At least one error.
    """
    from siredon.config.load import load_config

    return _read(words, load_config)


def read_target(words: list[str] | None) -> Config:
    """The same for a verb after training, which takes a YAML file or the folder of a run or of a model.

    Raises:
        CheckpointError: A folder with neither adapter nor model.
        ConfigError: At least one error.
    """
    from siredon.config.artifact import load_target

    return _read(words, load_target)


def read_sharded(words: list[str] | None) -> Config:
    """The same for the verb that takes a YAML file or the folder of a sharded checkpoint.

    Raises:
        CheckpointError: A folder that does not say which model its weights are of.
        ConfigError: At least one error.
    """
    from siredon.config.sharded import load_sharded

    return _read(words, load_sharded)


def _read(
    words: list[str] | None,
    load: Callable[[str, Sequence[Layer]], tuple[Config, tuple[Diagnostic, ...]]],
) -> Config:
    from siredon.config.diagnostics import show_text
    from siredon.hardware import set_thread_policy

    (path,), layer = read_words(words)
    set_thread_policy()
    config, warnings = load(path, [layer])
    if warnings:
        note(show_text(warnings))
    return config
