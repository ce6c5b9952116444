"""YAML text in, problems out."""

from __future__ import annotations

from siredon.config.diagnostics import Diagnostic
from siredon.config.document import Document, parse_document
from siredon.config.load import Checked, all_rules, check_document
from siredon.config.schema import Config
from siredon.config.sections.preference import PAIR_METHODS

MODEL = "base_model: some/model\nlearning_rate: 1e-4\n"
DATASETS = "datasets:\n  - path: rows.jsonl\n    type: alpaca\n"
#: The least that is a configuration; what a test adds begins on line 6.
MINIMAL = MODEL + DATASETS
#: The same for a method that compares answers.
PAIRS = MINIMAL.replace("alpaca", "chat_template.default")
#: The same for one that judges steps.
STEPS = MINIMAL.replace("alpaca", "stepwise_supervised")


def read(text: str) -> Document:
    """A document that has no problem of its own."""
    document = parse_document("config.yml", text)
    assert document.problems == ()
    return document


def check(added: str = "", start: str = MINIMAL) -> Checked:
    """What becomes of the least configuration with further lines."""
    if start == MINIMAL and "process_reward_model: true" in added:
        start = STEPS
    elif start == MINIMAL and (
        any(f"rl: {method}\n" in added for method in (*PAIR_METHODS, "kto")) or "reward_model: true" in added
    ):
        start = PAIRS
    return check_document(parse_document("config.yml", start + added))


def accept(added: str = "", start: str = MINIMAL) -> Config:
    """The config of a text that has no problem at all."""
    checked = check(added, start)
    assert checked.diagnostics == ()
    assert checked.config is not None
    return checked.config


def find(added: str, start: str = MINIMAL) -> list[tuple[str, str]]:
    """Code and key of every problem, in the order shown."""
    return [(problem.code, problem.key) for problem in check(added, start).diagnostics]


def find_one(added: str, start: str = MINIMAL) -> Diagnostic:
    """The only problem of a text."""
    (problem,) = check(added, start).diagnostics
    return problem


def without_unbuilt(checked: Checked) -> list[Diagnostic]:
    """The problems but that a key is not built yet, as a rule about it is there before it, and but for those that
    another machine may not have.
    """
    elsewhere = {rule.code for rule in all_rules() if not rule.portable}
    return [problem for problem in checked.diagnostics if problem.code not in {"SD0004", *elsewhere}]
