"""A path in; a frozen `Config`, or every problem at once, out.

Neither torch nor transformers is imported on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from siredon.config.deal import deal_values
from siredon.config.diagnostics import Diagnostic, num_errors, show_report, sort_diagnostics
from siredon.config.document import Document, Source
from siredon.config.fields import Section
from siredon.config.invalid import report_invalid
from siredon.config.layers import Layer, read_layers
from siredon.config.origin import Origin
from siredon.config.report import Report
from siredon.config.rule import Rule
from siredon.config.schema import Config, key_homes, read_fields, section_types
from siredon.errors import ConfigError
from siredon.redaction import learn_secrets
from siredon.registry import Shelf

CHECKS = Shelf("siredon.config.checks", "RULES", "checks")


@cache
def all_rules() -> tuple[Rule, ...]:
    """The rules of every file in `checks/`, by code."""
    rules: list[Rule] = [rule for name in CHECKS.names() for rule in CHECKS.load(name)]
    return tuple(sorted(rules, key=lambda rule: rule.code))


@dataclass(frozen=True)
class Checked:
    """The outcome of reading a file: the config if there is no error, and every problem.

    Args:
        config: The config; None if there is an error.
        diagnostics: The problems, in the order of the lines.
        report: Where the values stand.
    """

    config: Config | None
    diagnostics: tuple[Diagnostic, ...]
    report: Report


def load_config(path: str, layers: Sequence[Layer] = ()) -> tuple[Config, tuple[Diagnostic, ...]]:
    """Reads and checks a file, with what is laid over it.

    Returns:
        The config, and the warnings.

    Raises:
        ConfigError: At least one error; the message shows all problems, located.
    """
    checked = check_config(path, layers)
    if checked.config is None:
        raise ConfigError(show_report(path, checked.diagnostics), num_errors(checked.diagnostics))
    return checked.config, checked.diagnostics


def check_config(path: str, layers: Sequence[Layer] = ()) -> Checked:
    """Reads a file, with what is laid over it, and finds every problem."""
    return check_document(read_layers(path, layers))


def check_document(document: Document) -> Checked:
    """Finds every problem in what was read."""
    report = Report(document)
    learn_secrets(document.values, {name for name, info in key_homes().items() if info.is_secret})
    if not document.whole:  # What is missing would be blamed on what is there
        return Checked(None, sort_diagnostics(document.problems, document.path), report)
    dealt = deal_values(document.values, report)
    sections = {home: _build(section, dealt[home], home, report) for home, section in section_types().items()}
    _check_rules(sections, report)
    problems = sort_diagnostics(_drop_repeated(report.problems), document.path)
    if num_errors(problems):
        return Checked(None, problems, report)
    sources = (Source(document.path, document.text), *document.sources.values())
    return Checked(Config.of(sections, Origin(tuple(dict.fromkeys(sources)))), problems, report)


def _drop_repeated(problems: Sequence[Diagnostic]) -> Iterable[Diagnostic]:
    """The problems, less those that an alias brings again from the same place: only the number of the entry differs."""
    distinct: dict[tuple[Any, ...], Diagnostic] = {}
    for item in problems:
        distinct.setdefault((item.path, item.place, item.code, re.sub(r"\.\d+", "", item.message)), item)
    return distinct.values()


def _build(section: type[Section], values: Mapping[str, Any], home: str, report: Report) -> Section | None:
    """Validates one section; None if a value in it is not valid."""
    if not values and not any(field.is_required() for field in section.model_fields.values()):
        return section.model_construct()  # Defaults are valid, and building a validator takes longest
    try:
        return section.model_validate(values)
    except ValidationError as error:
        report_invalid(error.errors(), read_fields(section, home), values, report)
        return None


def _check_rules(sections: Mapping[str, Section | None], report: Report) -> None:
    """Runs the rules whose sections are valid.  Where a value is wrong, warnings about the rest would mislead."""
    homes = key_homes()
    wrong = {homes[name].section for name in report.wrong_keys() if name in homes}
    for rule in all_rules():
        chosen = [sections[home] for home in rule.sections]
        if None in chosen:
            continue
        for finding in rule.check(*chosen):
            if finding.severity == "warning" and wrong.intersection(rule.sections):
                continue
            path = tuple(int(part) if part.isdecimal() else part for part in finding.key.split("."))
            report.add(
                rule.code, finding.severity, path, finding.message, finding.fix, at_value=bool(finding.value)
            )
            if finding.replacement is not None:
                report.correct(finding.value, finding.replacement, "value")
