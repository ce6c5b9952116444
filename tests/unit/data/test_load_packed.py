"""Compressed files and archives: whole, damaged, and made to harm."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data import scratch
from siredon.data.load import Source, load_rows
from siredon.data.scratch import Scratch
from siredon.errors import DataError

ROWS = [{"a": number, "text": "é" * number} for number in range(50)]


def lines(rows: list[dict[str, Any]] = ROWS) -> bytes:
    import json

    return "\n".join(json.dumps(row) for row in rows).encode()


def load(path: Path, **keys: Any) -> Source:
    return load_rows(DatasetEntry.model_validate({"path": str(path), "type": "alpaca", **keys}))


def compress_with_arrow(kind: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, kind) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": compress_with_arrow("zstd"),
    "lz4": compress_with_arrow("lz4"),
}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_are_read_whole_and_in_several_frames(tmp_path: Path, ending: str):
    compress = COMPRESSIONS[ending]
    data = lines()
    (tmp_path / f"one.jsonl.{ending}").write_bytes(compress(data))
    (tmp_path / f"two.jsonl.{ending}").write_bytes(compress(data[:99]) + compress(data[99:]))
    for name in ("one", "two"):
        source = load(tmp_path / f"{name}.jsonl.{ending}")
        assert list(source.rows) == ROWS
        assert source.place(1) == f"{tmp_path}/{name}.jsonl.{ending}: row 2"


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, harm: str):
    noise = random.Random(0)
    data = bytearray(COMPRESSIONS[ending](lines([{"a": noise.randbytes(300).hex()} for _ in range(300)])))
    if harm == "cut":
        data = data[: len(data) // 2]
    else:
        for place in range(len(data) // 2, len(data) // 2 + 64):
            data[place] ^= 0xFF
    path = tmp_path / f"r.jsonl.{ending}"
    path.write_bytes(data)
    what = r"the \w+ file is damaged or incomplete"
    if (ending, harm) == ("zst", "flipped"):  # Arrow writes Zstandard without checksums
        what += r"|line \d+: no JSON"
    with pytest.raises(DataError, match=rf"r\.jsonl\.{ending}: ({what})"):
        list(load(path).rows)


def test_what_is_compressed_is_told_by_the_first_bytes(tmp_path: Path):
    (tmp_path / "plain.jsonl.gz").write_bytes(lines())
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(lines()))
    (tmp_path / "twice.csv.gz").write_bytes(gzip.compress(bz2.compress(b"a\n1\n")))
    assert list(load(tmp_path / "plain.jsonl.gz").rows) == ROWS
    assert list(load(tmp_path / "packed.jsonl").rows) == ROWS
    assert list(load(tmp_path / "twice.csv.gz").rows) == [{"a": "1"}]


# Archives


def make_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], None]] = {
    "r.zip": make_zip,
    "r.jsonl.zip": make_zip,
    "r.tar": make_tar,
    "r.tar.gz": lambda path, members: make_tar(path, members, "w:gz"),
    "r.tgz": lambda path, members: make_tar(path, members, "w:gz"),
    "r.tar.xz": lambda path, members: make_tar(path, members, "w:xz"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_files_of_an_archive_are_those_of_a_folder(tmp_path: Path, name: str):
    members = {
        "data/train.jsonl": lines(ROWS[:20]),
        "data/train-2.jsonl": lines(ROWS[20:]),
        "data/test.jsonl": lines([{"a": "test"}]),
        "README.md": b"# About",
        "__MACOSX/data/._train.jsonl": b"\0\1",
    }
    MAKERS[name](tmp_path / name, members)
    rows = list(load(tmp_path / name).rows)
    assert sorted(rows, key=lambda row: row["a"]) == ROWS
    source = load(tmp_path / name, split="test")
    assert list(source.rows) == [{"a": "test"}]
    assert source.place(0) == f"{tmp_path}/{name}/data/test.jsonl: row 1"


def test_archives_inside_a_folder_are_read(tmp_path: Path):
    make_zip(tmp_path / "train-1.zip", {"a.jsonl": lines(ROWS[:20])})
    make_zip(tmp_path / "train-2.zip", {"b.jsonl": lines(ROWS[20:]), "LICENSE": b"x"})
    assert list(load(tmp_path).rows) == ROWS


@pytest.mark.parametrize(
    "member", ["../evil.jsonl", "{}/evil.jsonl", "a/../../evil.jsonl", "C:/evil.jsonl", "..\\evil.jsonl"]
)
@pytest.mark.parametrize("name", ["r.zip", "r.tar.gz"])
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, name: str, member: str):
    MAKERS[name](tmp_path / name, {"fine.jsonl": lines(), member.format(tmp_path): lines()})
    with pytest.raises(DataError, match=r"refused: its member .* would be written outside of its folder"):
        load(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [name]


def test_links_and_passwords_in_archives_are_refused(tmp_path: Path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "r.tar", "w") as archive:
            info = tarfile.TarInfo("rows.jsonl")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(DataError, match=r"its member 'rows\.jsonl' is a link or a device"):
            load(tmp_path / "r.tar")
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        link = zipfile.ZipInfo("rows.jsonl")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"its member 'rows\.jsonl' is a link"):
        load(tmp_path / "r.zip")
    make_zip(tmp_path / "r.zip", {"rows.jsonl": lines()})
    data = bytearray((tmp_path / "r.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "r.zip").write_bytes(data)
    with pytest.raises(DataError, match="has a password"):
        load(tmp_path / "r.zip")


def test_an_archive_with_one_name_twice_or_nothing_to_read_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "r.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("rows.jsonl"))
    with pytest.raises(DataError, match="is there twice"):
        load(tmp_path / "r.tar")
    make_zip(tmp_path / "r.zip", {"a.png": b"x"})
    with pytest.raises(DataError, match="holds no data file"):
        load(tmp_path / "r.zip")
    make_zip(tmp_path / "r.zip", {})
    with pytest.raises(DataError, match="holds no file"):
        load(tmp_path / "r.zip")


@pytest.mark.parametrize("name", ["r.zip", "r.tar"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str):
    MAKERS[name](tmp_path / name, {"r.jsonl": lines()})
    data = bytearray((tmp_path / name).read_bytes())
    if name == "r.zip":
        data[60:80] = bytes(20)
    else:
        data = data[:700]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"file is damaged or incomplete"):
        load(tmp_path / name)


# Temporary files


def temporary_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("siredon-*"))


def test_temporary_files_go_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines()))
    source = load(tmp_path / "r.jsonl.gz")
    assert len(temporary_folders()) == 1
    assert list(source.rows) == ROWS
    del source
    assert not temporary_folders()


def test_a_full_disk_stops_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.open

    def fill(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return (
            real(Path("/dev/full"), "wb", buffering=0) if mode == "xb" else real(self, mode, *rest, **options)
        )

    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines()))
    monkeypatch.setattr(Path, "open", fill)
    with pytest.raises(DataError, match=r"r\.jsonl\.gz: no room is left in .*") as error:
        load(tmp_path / "r.jsonl.gz")
    assert "TMPDIR" in error.value.fix


# What comes to more than any data does


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bombs that are small: the floor is a thousandth of what it is."""
    monkeypatch.setattr(scratch, "FREE_BYTES", 100_000)
    return 10_000_000


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst", "zip", "tar.gz"])
def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, few_bytes: int, ending: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path, data = tmp_path / f"r.jsonl.{ending}", b"0" * few_bytes
    if ending in COMPRESSIONS:
        path.write_bytes(COMPRESSIONS[ending](data))
    else:
        MAKERS[f"r.{ending}"](path, {"r.jsonl": data})
    written: list[int] = []
    monkeypatch.setattr(scratch, "_remove", lambda folder, _: written.append(measure(folder)))
    with pytest.raises(DataError, match=r"refused: it comes to over 200 times its size, and over 100\.0 kB"):
        load(path)
    gc.collect()
    assert sum(written) < few_bytes / 2
    path.write_bytes(COMPRESSIONS["gz"](lines()))
    assert list(load(path).rows) == ROWS


def measure(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_zip_that_lies_about_its_sizes_and_one_of_many_small_bombs(tmp_path: Path, few_bytes: int):
    make_zip(tmp_path / "r.zip", {f"{number}.jsonl": b"0" * 90_000 for number in range(50)})
    with pytest.raises(DataError, match="over 200 times its size"):
        load(tmp_path / "r.zip")
    inner = io.BytesIO()
    make_zip(inner, {"r.jsonl": b"0" * few_bytes})  # type: ignore[arg-type]
    make_zip(tmp_path / "r.zip", {f"{number}.zip": inner.getvalue() for number in range(3)})
    with pytest.raises(DataError, match=r"r\.zip/0\.zip.*over 200 times its size"):
        load(tmp_path / "r.zip")
    make_zip(tmp_path / "r.zip", {"r.jsonl": b"0" * few_bytes})
    data = bytearray((tmp_path / "r.zip").read_bytes())
    # The size that the directory states
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (100).to_bytes(4, "little")
    (tmp_path / "r.zip").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        load(tmp_path / "r.zip")


def test_packed_files_in_packed_files_come_to_an_end(tmp_path: Path):
    data = lines()
    for number in range(4):
        data = gzip.compress(data)
        (tmp_path / f"{number}.jsonl.gz").write_bytes(data)
    assert list(load(tmp_path / "3.jsonl.gz").rows) == ROWS
    (tmp_path / "4.jsonl.gz").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match="refused: packed files lie in it over 4 deep"):
        load(tmp_path / "4.jsonl.gz")
    make_zip(tmp_path / "0.zip", {"r.jsonl": lines()})
    for number in range(1, 5):
        make_zip(tmp_path / f"{number}.zip", {"r.zip": (tmp_path / f"{number - 1}.zip").read_bytes()})
    assert list(load(tmp_path / "3.zip").rows) == ROWS
    with pytest.raises(DataError, match=r"r\.zip: refused: packed files lie in it over 4 deep"):
        load(tmp_path / "4.zip")


@pytest.mark.parametrize("name", ["r.zip", "r.tar"])
def test_too_many_members_and_too_many_folders(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scratch, "MAX_MEMBERS", 5)
    MAKERS[name](tmp_path / name, {f"{number}.jsonl": lines(ROWS[:1]) for number in range(6)})
    with pytest.raises(DataError, match="refused: it holds over 5 files"):
        load(tmp_path / name)
    MAKERS[name](tmp_path / name, {f"{number}.jsonl": b"" for number in range(6)})
    with pytest.raises(DataError, match="refused: it holds over 5 files"):
        load(tmp_path / name)
    MAKERS[name](tmp_path / name, {"a/" * 1500 + "r.jsonl": lines()})
    with pytest.raises(DataError, match=r"its member 'a/a/.*\.\.\.' lies over 50 folders deep"):
        load(tmp_path / name)


def test_a_file_that_cannot_fit_is_refused_before_it_is_written():
    with pytest.raises(
        DataError, match=r"^s3://b/x: 1,000,000\.0 TB do not fit into .*, which has .*B left\n"
    ):
        Scratch().check_room(10**18, "s3://b/x")
    Scratch().check_room(10, "x")
