from __future__ import annotations

import json

import pytest

from siredon.config.diagnostics import (
    Diagnostic,
    Place,
    Severity,
    count_text,
    num_errors,
    show_json,
    show_text,
    sort_diagnostics,
)

TEXT = "base_model: some/model\nlerning_rate: 1e-4\n\tseed: x\n"


def problem(line: int = 2, column: int = 1, code: str = "SD0003", severity: Severity = "error") -> Diagnostic:
    return Diagnostic(
        code, severity, "it is wrong", "Mend it.", "lerning_rate", "my.yml", Place(line, column), TEXT
    )


def test_the_text_has_place_cause_line_caret_and_fix():
    assert show_text([problem()]) == (
        "my.yml:2:1: error SD0003: it is wrong\n    2 | lerning_rate: 1e-4\n      | ^\n      = fix: Mend it."
    )


@pytest.mark.parametrize("column", [1, 5, 13, 22])
def test_the_caret_stands_under_its_column(column: int):
    _, source, caret, _ = show_text([problem(1, column)]).splitlines()
    assert caret.index("^") == source.index("base_model") + column - 1


def test_the_caret_stands_under_its_column_after_a_tab():
    _, source, caret, _ = show_text([problem(3, 8)]).splitlines()
    assert source[: caret.index("^")].replace("    3", "     ").replace("seed: ", "      ") == caret[:-1]
    assert "\t" in caret


@pytest.mark.parametrize("line", [0, 4, 99])
def test_a_place_outside_the_text_shows_no_line(line: int):
    assert show_text([problem(line)]).splitlines() == [
        f"my.yml:{line}:1: error SD0003: it is wrong",
        "      = fix: Mend it.",
    ]


def test_problems_stand_apart_by_an_empty_line():
    assert show_text([problem(), problem(1)]).count("\n\n") == 1
    assert show_text([]) == ""


def test_the_json_has_every_field_of_a_problem():
    rows = json.loads(show_json([problem(2, 7, severity="warning")]))
    assert rows == [
        {
            "code": "SD0003",
            "severity": "warning",
            "message": "it is wrong",
            "fix": "Mend it.",
            "file": "my.yml",
            "line": 2,
            "column": 7,
            "key": "lerning_rate",
        }
    ]
    assert json.loads(show_json([])) == []


def test_problems_are_sorted_by_line_column_and_code():
    first, second = problem(1, 9), problem(2, 1)
    third, fourth = problem(2, 3, "SD0001"), problem(2, 3, "SD0005")
    assert sort_diagnostics([fourth, second, third, first]) == (first, second, third, fourth)


def test_warnings_are_no_errors():
    assert num_errors([problem(), problem(severity="warning"), problem()]) == 2
    assert num_errors([]) == 0


@pytest.mark.parametrize(
    ("errors", "warnings", "text"),
    [(1, 0, "1 error"), (3, 0, "3 errors"), (0, 1, "1 warning"), (2, 2, "2 errors, 2 warnings"), (0, 0, "")],
)
def test_the_count_reads_well(errors: int, warnings: int, text: str):
    assert count_text([problem()] * errors + [problem(severity="warning")] * warnings) == text
