"""`siredon inspect` from the command line, on the tiny model's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from siredon.cli.app import app

Write = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_rows_and_a_summary_are_shown(write_config: Write):
    result = invoke("inspect", write_config(sample_packing=True))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("rows.jsonl: row ") == 3
    assert "⟧" in result.stdout
    for words in ("24 rows", "training packs:", "learned, by role", "assistant"):
        assert words in result.stdout


def test_json_is_all_that_stands_on_stdout(write_config: Write):
    result = invoke("inspect", write_config(), "--json", "-n", 2)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["number"] for row in found["rows"]] == [1, 2]
    assert found["sources"][0]["counts"]["num_samples"] == 24
    assert any(piece["learned"] and piece["special"] for piece in found["rows"][0]["samples"][0]["pieces"])


def test_a_page_is_written_with_as_many_rows_as_there_are(write_config: Write, tmp_path: Path):
    page = tmp_path / "page.html"
    result = invoke("inspect", write_config(), "--html", page)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"page: {page} (24 rows)\n"
    assert page.read_text().startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_an_error(write_config: Write, tmp_path: Path):
    result = invoke("inspect", write_config(), "--html", tmp_path / "no" / "page.html")
    assert result.exit_code == 1
    assert "cannot be written" in str(result.exception)


def test_one_row_is_chosen_and_settings_are_laid_over_the_file(write_config: Write):
    result = invoke("inspect", write_config(), "--row", 5, "--json", "train_on_inputs=true")
    (row,) = json.loads(result.stdout)["rows"]
    assert row["number"] == 5


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_the_exit_status_tells_that_training_would_stop(write_config: Write, option: tuple[str, ...]):
    result = invoke("inspect", write_config(sequence_len=8), *option)
    assert result.exit_code == 1
    assert "no row is left of 24" in result.stdout
    assert "over sequence_len" in result.stdout
