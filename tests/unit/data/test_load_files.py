"""Files of every kind, as people have them, and broken in every way that people break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED_DATA

from siredon.config.sections.data import DatasetEntry
from siredon.data.load import Source, load_rows
from siredon.errors import DataError


def load(path: Path, content: str | bytes | None = None, **keys: Any) -> Source:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_rows(DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys}))


def rows_of(*args: Any, **keys: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in load(*args, **keys).rows]


A, B = {"a": 1, "b": "é 😀"}, {"a": [{"c": None}], "d": "\u2028"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.jsonl", f"{json.dumps(A)}\n{json.dumps(B)}\n"),
        ("lines.ndjson", f"{json.dumps(A, ensure_ascii=False)}\n{json.dumps(B, ensure_ascii=False)}"),
        ("windows.jsonl", f"{json.dumps(A)}\r\n\r\n{json.dumps(B)}\r\n"),
        ("blank.jsonl", f"\n  \n{json.dumps(A)}\n\t\n{json.dumps(B)}\n\n"),
        ("bom.jsonl", f"\ufeff{json.dumps(A)}\n{json.dumps(B)}\n"),
        ("array.json", json.dumps([A, B])),
        ("pretty.json", json.dumps([A, B], indent=2, ensure_ascii=False) + "\n"),
        ("bom.json", "\ufeff" + json.dumps([A, B], ensure_ascii=False)),
        ("lines.json", f"{json.dumps(A)}\n{json.dumps(B)}"),
        ("array.jsonl", f"  [\n{json.dumps(A)}\n,{json.dumps(B)} ]"),
        ("values.json", json.dumps(A, indent=1) + "\n" + json.dumps(B, indent=1)),
        ("SHOUTED.JSONL", f"{json.dumps(A)}\n{json.dumps(B)}\n"),
        ("no-ending", f"{json.dumps(A)}\n{json.dumps(B)}\n"),
    ],
)
def test_json_comes_through_as_it_is_however_it_is_written(tmp_path: Path, name: str, content: str):
    assert rows_of(tmp_path / name, content) == [A, B]


def test_rows_with_other_keys_and_other_types_come_through(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"a": 1},
        {"b": "2020-01-01"},
        {"a": "x", "b": {"c": 1}},
        {"b": {"c": "y", "d": []}},
        {},
    ]
    assert rows_of(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows))) == rows
    assert rows_of(tmp_path / "r.json", json.dumps(rows)) == rows


def test_a_row_that_is_longer_than_a_block_of_the_file_comes_through(tmp_path: Path):
    rows = [{"a": "x"}, {"a": "é" * 1_500_000}, {"a": "y"}, {"a": "z" * 2_000_000}]
    for content in ("\n".join(map(json.dumps, rows)), json.dumps(rows, ensure_ascii=False)):
        assert rows_of(tmp_path / "r.json", content) == rows


def test_an_array_over_many_blocks_has_every_row_in_its_place(tmp_path: Path):
    rows = [{"n": number, "text": "äöü😀" * (number % 97)} for number in range(20_000)]
    source = load(tmp_path / "r.json", json.dumps(rows, ensure_ascii=False, indent=1))
    assert list(source.rows) == rows
    assert source.rows[12_345] == rows[12_345]
    assert source.place(2) == f"{tmp_path}/r.json: row 3 (line 10)"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data folder is not beside this checkout")
@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "glaive_toolcall_en_demo.json", "c4_demo.jsonl"])
def test_real_files_are_read_as_python_reads_them(name: str):
    text = (SHARED_DATA / name).read_text()
    expected = (
        json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    )
    assert list(load(SHARED_DATA / name).rows) == expected


# CSV


def test_csv_cells_are_text_and_empty_ones_none(tmp_path: Path):
    content = '\ufeffa,b,c\r\n007,"x, ""y""\r\nz",\r\n\r\ntrue,é\r\n'
    assert rows_of(tmp_path / "r.csv", content) == [
        {"a": "007", "b": 'x, "y"\r\nz', "c": None},
        {"a": "true", "b": "é", "c": None},
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.tsv", "a\tb\n1,5\tx"),
        ("r.csv", "a;b\n1,5;x"),
        ("r.csv", "a\tb\n1,5\tx"),
        ("r.csv", 'a,b\n"1,5",x'),
        ("r.tsv", "a,b\n'1,5\tx'".replace("'1,5\tx'", '"1,5",x')),
    ],
)
def test_the_separator_is_the_one_in_the_header(tmp_path: Path, name: str, content: str):
    assert rows_of(tmp_path / name, content) == [{"a": "1,5", "b": "x"}]


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path):
    assert rows_of(tmp_path / "r.csv", "text\n" + "x" * 300_000) == [{"text": "x" * 300_000}]


def test_rows_of_csv_are_those_of_python_in_any_order(tmp_path: Path):
    import csv

    cells = [[str(number), 'say "hi",\n' * (number % 3), "é;" * (number % 5)] for number in range(3_000)]
    with (tmp_path / "r.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["n", "a", "b"], *cells])
    rows = load(tmp_path / "r.csv").rows
    expected = [{"n": n, "a": a or None, "b": b or None} for n, a, b in cells]
    assert list(rows) == expected
    assert [rows[number] for number in (2_999, 0, 7)] == [expected[number] for number in (2_999, 0, 7)]


# Text, Parquet, Arrow


def test_a_text_file_is_one_row(tmp_path: Path):
    assert rows_of(tmp_path / "r.txt", "\ufeffone\r\ntwo\n") == [{"text": "one\ntwo\n"}]
    assert rows_of(tmp_path / "r.md", "# é") == [{"text": "# é"}]


def write_arrow(path: Path, table: Any, *, stream: bool = False) -> None:
    import pyarrow as pa

    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_rows_stored_by_column_are_read_in_any_order(tmp_path: Path, kind: str):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"n": number, "m": [{"role": "user", "x": None}] * (number % 3)} for number in range(2_500)]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / ("r.parquet" if kind == "parquet" else "r.arrow")
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=700)
    else:
        write_arrow(path, table, stream=kind == "stream")
    source = load(path)
    assert list(source.rows) == rows
    assert source.rows[1_999] == rows[1_999]
    assert source.place(1_999) == f"{path}: row 2000"
    assert list(load(path, split="train[699:1402]").rows) == rows[699:1402]
    shuffled = list(load(path, shuffle=True).rows)
    assert shuffled != rows
    assert sorted(shuffled, key=lambda row: row["n"]) == rows


def test_values_of_several_types_that_datasets_stored_as_json_come_back(tmp_path: Path):
    import datasets

    rows = [{"a": [{"b": 0}, {"c": "x"}]}, {"a": None}, {"a": [1]}]
    features = datasets.Features({"a": datasets.List(datasets.Json())})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "r.parquet"))
    assert list(load(tmp_path / "r.parquet").rows) == rows


@pytest.mark.parametrize("name", ["r.parquet", "r.arrow"])
def test_the_first_bytes_say_what_a_file_is_whatever_its_name(tmp_path: Path, name: str):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": [1, 2]})
    write_arrow(tmp_path / "r.arrow", table)
    pq.write_table(table, tmp_path / "r.parquet")
    (tmp_path / name).rename(tmp_path / "r.jsonl")
    assert list(load(tmp_path / "r.jsonl").rows) == [{"a": 1}, {"a": 2}]


def test_ds_type_says_what_an_unknown_ending_does_not(tmp_path: Path):
    with pytest.raises(DataError, match=r"r\.dat: its ending does not tell what it is"):
        load(tmp_path / "r.dat", "a,b\n1,2\n")
    assert rows_of(tmp_path / "r.dat", ds_type="csv") == [{"a": "1", "b": "2"}]
    assert rows_of(tmp_path / "r.dat", ds_type="text") == [{"text": "a,b\n1,2\n"}]


# Faults


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.jsonl",
            '{"a": 1}\n\n{"a": 2\n{"a": 3}\n',
            r"r\.jsonl: line 3: no JSON: Expecting ',' delimiter at column 8, near `{\"a\": 2`",
        ),
        ("r.jsonl", '{"a": 1}\n{"a": "x\n', "line 2: no JSON: Unterminated string starting at column 7"),
        ("r.jsonl", '{"a": 1}\n[1]\n', r"line 2: a row must be an object `\{\.\.\.\}`, not an array"),
        ("r.jsonl", '{"a": 1}\n"x"\n', "line 2: a row must be .*, not text"),
        ("r.jsonl", '{"a": 1}\nnull\n', "line 2: a row must be .*, not null"),
        ("r.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: byte 0xff at column 8 is no UTF-8"),
        ("r.jsonl", '{"a": 1}\n{"a": "\\ud83d"}\n', r"line 2: the text holds half a character \(`\\ud83d`\)"),
        ("r.jsonl", '{"a": 1}\n{"a": ' + "[" * 99_999, "line 2: the value is nested too deeply"),
        ("r.jsonl", '{"a": 1}\n{"a": ' + "1" * 5_000 + "}", "line 2: a whole number has thousands of digits"),
        ("r.jsonl", '{"a": 1, \n', "line 1: no JSON: the file ends inside of a value"),
        ("r.jsonl", "a,b\n1,2\n", r"line 1: no JSON: Expecting value at column 1, near `a,b`"),
        ("r.jsonl", '{"a": 1}'.encode("utf-16"), "the text is in UTF-16"),
        ("r.json", '[{"a": 1},\n{"a": 2]', "line 2: no JSON: Expecting ',' delimiter, near"),
        ("r.json", '[{"a": 1},\n{"a": 2},\n]', "line 3: a comma before the end of the array"),
        ("r.json", '[{"a": 1},\n{"a": 2}', "line 2: no JSON: `,` expected, not the end of the file"),
        ("r.json", '[{"a": 1}\n,{"a": 2', "line 2: no JSON: the file ends inside of a value"),
        ("r.json", '[{"a": 1}\n{"a": 2}]', "line 2: no JSON: `,` expected, not `{`"),
        ("r.json", '[{"a": 1},\n3]', "line 2: a row must be an object"),
        ("r.json", '[{"a": 1}]\n]', "line 2: more text after the end of the array"),
        ("r.json", b'[{"a": 1},\n\n{"a": "\xff"}]', "line 3: byte 0xff is no UTF-8"),
        ("r.json", '[{"a": 1},\n{"a": ' + "[" * 99_999, "line 2: the value is nested too deeply"),
        ("r.json", '[{"a": ' + "1" * 5_000 + "}]", "line 1: a whole number has thousands of digits"),
        ("r.json", '{\n"a": 1\n}\n{\n"a" 2\n}', "line 5: no JSON: Expecting ':' delimiter"),
        ("r.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells, but 2 columns"),
        (
            "r.csv",
            'a,b\n1,2\n1,"x\n2,3\n',
            "line 4: no CSV: unexpected end of data in the row that begins in line 3",
        ),
        ("r.csv", 'a,b\n1,2\n"x"y,3\n', "line 3: no CSV: ',' expected after '\"'"),
        ("r.csv", "a,b,a\n1,2,3\n", "line 1: the column `a` is there twice"),
        ("r.csv", b"a\n1\n\xff\n", "line 3: byte 0xff at column 1 is no UTF-8"),
        ("r.txt", b"one\ntwo \xff", "line 2: byte 0xff at column 5 is no UTF-8"),
        ("r.parquet", '{"a": 1}', "cannot be read as Parquet"),
        ("r.parquet", b"PAR1" + b"x" * 99, "cannot be read as Parquet"),
        ("r.arrow", '{"a": 1}', "cannot be read as Arrow"),
        ("r.arrow", b"ARROW1" + b"x" * 99, "cannot be read as Arrow"),
        ("r.jsonl", "", "the data set has no rows"),
        ("r.jsonl", "\n\n \n", "the data set has no rows"),
        ("r.json", "[]", "the data set has no rows"),
        ("r.csv", "a,b\n", "the data set has no rows"),
        ("r.txt", "", "the data set has no rows"),
        ("r.parquet", "", "the data set has no rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
):
    with pytest.raises(DataError, match=message) as error:
        list(load(tmp_path / name, content).rows)
    assert error.value.message.startswith(f"{tmp_path}/{name}:")
    assert error.value.fix


def test_several_bad_lines_are_named_at_once(tmp_path: Path):
    lines = ["{}" if number % 3 else "{" for number in range(1, 40)]
    with pytest.raises(DataError) as error:
        list(load(tmp_path / "r.jsonl", "\n".join(lines)).rows)
    numbers = [line.split(": ")[1] for line in error.value.message.splitlines()]
    assert numbers == ["line 3", "line 6", "line 9", "line 12", "line 15"]
    assert error.value.message.endswith("(and perhaps more)")


def test_no_row_is_handed_out_after_a_bad_one(tmp_path: Path):
    rows = iter(load(tmp_path / "r.jsonl", '{"a": 1}\n{\n{"a": 3}\n').rows)
    assert next(rows) == {"a": 1}
    with pytest.raises(DataError, match="line 2: no JSON"):
        next(rows)


def test_a_file_that_is_cut_off_or_gone_while_it_is_read_is_named(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    rows = load(path, '{"a": 1}\n' * 9).rows
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"r\.jsonl became shorter while it was read"):
        list(rows)
    path.unlink()
    with pytest.raises(DataError, match=r"r\.jsonl: cannot be read \(No such file"):
        list(rows)


def test_a_path_that_is_not_there_is_no_hub_data_set_if_it_looks_like_a_file(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(DataError, match="there is no such file or folder") as error:
        load(tmp_path / "row.jsonl")
    assert f"Did you mean {tmp_path}/rows.jsonl?" in error.value.fix
    with pytest.raises(DataError, match="there is no such file or folder") as error:
        load(tmp_path / "nowhere/rows.tar.gz")
    assert "There is no folder" in error.value.fix
