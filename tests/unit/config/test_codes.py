from __future__ import annotations

import pytest

from siredon.config.codes import CODES, Code, all_pages, check_example, find_page, report_wrong, severities_of
from siredon.config.codes import touched_keys as keys_of
from siredon.config.report import NOT_BUILT
from siredon.config.schema import key_homes

WITH_EXAMPLES = [code for code in CODES if code.wrong]


@pytest.fixture(autouse=True)
def no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAME_OF_THE_RUN", raising=False)


@pytest.mark.parametrize("code", WITH_EXAMPLES, ids=lambda code: code.code)
def test_the_wrong_example_of_a_code_is_reported_with_it_and_its_severity(code: Code):
    found = [problem for problem in check_example(code, code.wrong) if problem.code == code.code]
    assert found
    assert {problem.severity for problem in found} == {code.severity}
    assert severities_of(code, found) == (code.severity,)


@pytest.mark.parametrize("code", [code for code in CODES if code.right], ids=lambda code: code.code)
def test_the_right_example_of_a_code_is_not(code: Code):
    assert [problem.code for problem in check_example(code, code.right) if problem.code != NOT_BUILT] == []


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.code)
def test_a_page_is_a_sentence_and_names_keys_that_exist(page: Code):
    assert page.title.endswith(".")
    assert not page.reason or page.reason.endswith((".", "`", ":"))
    assert {key.partition(".")[0] for key in keys_of(page)} <= set(key_homes())


def test_a_report_of_an_example_is_placed_as_if_its_lines_stood_alone():
    page = find_page("sd0003")
    assert page is not None
    (problem,), beside = report_wrong(page)
    assert (problem.place, problem.line_text) == ((1, 1), "micro_batch_sise: 2")
    assert beside == ()


def test_a_code_that_nobody_reports_has_no_page():
    assert find_page("SD9999") is None
