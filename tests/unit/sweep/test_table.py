"""Records on disk, and the table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from siredon.errors import SiredonError
from siredon.sweep.table import TRAINING, VALIDATION, Book, Record, find_best, render_table, show_results


def record_of(number: int, metric: float | None = 1.0, name: str = VALIDATION, **changes) -> Record:
    settings = {"learning_rate": number / 1000, "lora_target_modules": ["q", "v"]}
    folder = f"out/sweep/{number:04}-learning_rate={number / 1000}"
    record = Record(number, settings, "finished", folder, f"hash{number}", metric, name, 12, 1234.5, 0.25, 0)
    return replace(record, **changes)


FAILED = record_of(9, None, "", status="failed", steps=None, exit_code=1, error="error: no rows")


def test_the_best_is_the_least_loss_and_the_first_of_equals():
    assert find_best([record_of(1, 2.0), record_of(2, 1.0), record_of(3, 1.0), FAILED]).number == 2
    assert find_best([FAILED]) is None
    assert find_best([]) is None


def test_a_training_loss_is_not_compared_with_a_validation_loss():
    low = record_of(1, 0.1, TRAINING)
    assert find_best([low, record_of(2, 3.0)]).number == 2
    assert find_best([low, record_of(2, 0.05, TRAINING)]).number == 2


def test_records_are_written_in_order_and_read_again(tmp_path: Path):
    book = Book(tmp_path)
    for record in (record_of(2), FAILED, record_of(1)):
        book.put(record)
    rows = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 9]
    assert [Record(**row) for row in rows] == book.records
    again = Book(tmp_path)
    assert [again.recall(f"hash{number}") for number in (1, 2, 9)] == book.records
    assert again.recall("hash3") is None
    assert again.records == []


def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = Book(tmp_path)
    book.put(record_of(1))

    def crash(source: Path, target: Path) -> None:
        raise OSError

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(OSError):
        book.put(record_of(2))
    assert (tmp_path / "sweep.jsonl").read_text().count("\n") == 1


def test_a_record_takes_the_place_of_the_one_before(tmp_path: Path):
    book = Book(tmp_path)
    book.put(record_of(1, None, status="unfinished"))
    book.put(record_of(1, 0.5))
    assert book.records == [record_of(1, 0.5)]
    assert len((tmp_path / "sweep.jsonl").read_text().splitlines()) == 1


def test_what_an_earlier_sweep_found_outlives_a_sweep_without_it(tmp_path: Path):
    first = Book(tmp_path)
    for record in (record_of(1), record_of(2)):
        first.put(record)
    first.close()
    assert not (tmp_path / "earlier.jsonl").exists()
    # Killed after its first trial, before it came to the second
    Book(tmp_path).put(record_of(1))
    assert Book(tmp_path).recall("hash2") == record_of(2)
    # A sweep that has the second trial no more
    third = Book(tmp_path)
    third.put(record_of(1))
    third.close()
    assert [json.loads(line)["number"] for line in (tmp_path / "sweep.jsonl").read_text().splitlines()] == [1]
    fourth = Book(tmp_path)
    assert fourth.recall("hash2") == record_of(2)
    for record in (record_of(1), record_of(2)):
        fourth.put(record)
    fourth.close()
    assert not (tmp_path / "earlier.jsonl").exists()


@pytest.mark.parametrize("line", ['{"number": 1', "[1]", '{"number": 1}', '{"nonsense": 1}'])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str):
    (tmp_path / "sweep.jsonl").write_text(line + "\n")
    with pytest.raises(SiredonError, match=r"sweep\.jsonl, line 1"):
        Book(tmp_path)


def test_the_csv_has_a_column_for_each_key(tmp_path: Path):
    book = Book(tmp_path)
    book.put(record_of(1, 0.5))
    book.put(replace(FAILED, settings={"base_model": 'a "b", c'}))
    with (tmp_path / "sweep.csv").open() as file:
        first, second = csv.DictReader(file)
    assert list(first)[:4] == ["number", "learning_rate", "lora_target_modules", "base_model"]
    assert (first["learning_rate"], first["lora_target_modules"], first["base_model"]) == (
        "0.001",
        '["q", "v"]',
        "",
    )
    assert (first["metric"], first["status"], first["tokens_per_second"]) == ("0.5", "finished", "1234.5")
    assert (second["base_model"], second["metric"], second["error"]) == ('a "b", c', "", "error: no rows")


def test_the_table_has_every_column_and_a_star_for_the_best():
    records = [record_of(1, 2.0), record_of(2, 1.0), FAILED]
    lines = render_table(records, records[1], 200).splitlines()
    rule = next(index for index, line in enumerate(lines) if set(line) == {"─"})
    head = " ".join(lines[:rule]).split()
    names = ["validation", "loss", "settings", "steps", "tokens/s", "minutes", "status", "folder"]
    assert sorted(head) == sorted(names)
    rows = [line.split() for line in lines[rule + 1 :]]
    assert rows[0][:2] == ["1", "learning_rate=0.001"]
    assert rows[1] == ['lora_target_modules=["q",', '"v"]']
    assert rows[2][:3] == ["*", "2", "learning_rate=0.002"]
    assert rows[2][3:] == ["1.0000", "12", "1,234", "0.2", "finished", "0002-learning_rate=0.002"]
    assert rows[4][-2:] == ["failed", "0009-learning_rate=0.009"]


def test_where_there_is_little_room_the_folder_is_cut_and_no_number_is():
    (line, *_) = [line for line in render_table([record_of(1)], None, 100).splitlines() if "finished" in line]
    assert line.split()[:3] == ["1", "learning_rate=0.001", "1.0000"]
    assert "0001-" in line
    assert line.endswith("…")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_keeps_to_the_width(width: int):
    records = [record_of(1), FAILED]
    assert max(len(line) for line in render_table(records, records[0], width).splitlines()) <= width


def test_mixed_losses_are_told_apart():
    text = render_table([record_of(1, 0.1, TRAINING), record_of(2, 3.0)], None, 200)
    assert "0.1000 training" in text
    assert "3.0000 validation" in text


def test_the_results_name_the_best_run_and_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    show_results([record_of(1, 2.0), record_of(2, 1.25), FAILED], tmp_path)
    shown = capsys.readouterr().out
    assert "best:    trial 2, validation loss 1.2500" in shown
    assert "learning_rate=0.002" in shown.partition("best:")[2]
    assert "out/sweep/0002-learning_rate=0.002" in shown.partition("best:")[2]
    assert "trial 9 failed: error: no rows" in shown
    assert str(tmp_path / "sweep.csv") in shown
