"""Trials laid over the configuration and checked, before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.config.diagnostics import Diagnostic, Place, num_errors, show_report, show_text, sort_diagnostics
from siredon.config.layers import Layer, Setting, lay_over, read_layers
from siredon.config.load import check_document
from siredon.config.schema import Config
from siredon.config.sections.batch import BatchSection
from siredon.errors import ConfigError
from siredon.log import note
from siredon.sweep.space import Space
from siredon.sweep.trial import Trial

#: What a sweep sets for each run; it says nothing about what is trained.
_OWN_KEYS = ("output_dir", "auto_resume_from_checkpoints")


@dataclass(frozen=True)
class ReadyTrial:
    """A trial whose configuration has no error.

    Args:
        trial: The trial.
        digest: Hash of its whole configuration, but for the folder: equal for runs that train the same.
        folder: Where the sweep keeps its runs.
    """

    trial: Trial
    digest: str
    folder: Path


class Checker:
    """Checks trials against the configuration as it was when the sweep began.

    Args:
        path: The configuration file.
        layer: What the command line sets.
        space: The search space.
    """

    def __init__(self, path: str, layer: Layer, space: Space) -> None:
        self.path, self.layer, self.space = path, layer, space
        self._document = read_layers(path, [layer])

    @property
    def seed(self) -> int:
        """The seed that the configuration has before a trial is laid over it."""
        value = self._document.values.get("seed")
        default: int = BatchSection.model_fields["seed"].default
        return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    def check(self, trial: Trial) -> tuple[ReadyTrial | None, tuple[Diagnostic, ...]]:
        """The trial, if its configuration has no error, and every problem."""
        source, start = self.space.source, Place(1, 1)
        # That a strict file does not set them is known here, and not run by run
        own = {"output_dir": self._document.values.get("output_dir"), "auto_resume_from_checkpoints": True}
        settings = tuple(Setting((key,), value, start, start) for key, value in own.items())
        document = lay_over(self._document, trial.as_layer(source))
        checked = check_document(lay_over(document, Layer(source, settings)))
        if checked.config is None:
            return None, checked.diagnostics
        folder = checked.config.checkpoint.output_folder / "sweep"
        return ReadyTrial(trial, digest_config(_dump(checked.config)), folder), checked.diagnostics

    def check_all(self, trials: Iterable[Trial]) -> list[ReadyTrial]:
        """The trials; the problems of all of them, and of the sweep file, are shown at once, each once.

        Raises:
            ConfigError: At least one error.
        """
        ready: list[ReadyTrial] = []
        problems: dict[tuple[Any, ...], Diagnostic] = {}
        found = list(self.space.problems)
        for trial in trials if self.space.whole else ():
            checked, more = self.check(trial)
            ready += [checked] if checked else []
            found += more
        for problem in found:
            problems.setdefault((problem.path, problem.place, problem.code, problem.message), problem)
        name = self.space.source.name
        shown = sort_diagnostics(problems.values(), name)
        if num_errors(shown):
            raise ConfigError(show_report(name, shown), num_errors(shown))
        if shown:
            note(show_text(shown))
        return ready


def digest_config(dump: dict[str, Any]) -> str:
    """Hash of a configuration, but for what a sweep sets itself.

    Args:
        dump: The sections as JSON values, as `run.json` has them.
    """
    checkpoint = {key: value for key, value in dump["checkpoint"].items() if key not in _OWN_KEYS}
    text = json.dumps({**dump, "checkpoint": checkpoint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _dump(config: Config) -> dict[str, Any]:
    """The configuration as it will be read from `run.json`."""
    dump: dict[str, Any] = json.loads(json.dumps(config.model_dump(mode="json", by_alias=True), default=str))
    return dump
