"""Buckets: a real S3 server on this machine; what is missing, refused or changed; packages that are not there."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siredon.config.sections.data import DatasetEntry
from siredon.data.cloud import CLOUDS
from siredon.data.load import Source, fingerprint_entry, fingerprint_hub, load_rows
from siredon.errors import DataError

ROWS = [{"n": number} for number in range(500)]
LINES = "\n".join(map(json.dumps, ROWS)).encode()

needs_server = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask_cors")),
    reason="the S3 server of the tests is not installed (extra `test`)",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    yield files
    files.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def load(url: str, **keys: Any) -> Source:
    return load_rows(entry(url, **keys))


def entry(url: str, **keys: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"path": url, "type": "alpaca", **keys})


@needs_server
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_an_object_is_read(bucket: Any, scheme: str):
    bucket.pipe({"bucket/a/rows.jsonl": LINES, "bucket/a/rows.jsonl.gz": gzip.compress(LINES)})
    source = load(f"{scheme}://bucket/a/rows.jsonl", split="train[:9]")
    assert list(source.rows) == ROWS[:9]
    assert source.place(8) == f"{scheme}://bucket/a/rows.jsonl: row 9"
    assert list(load(f"{scheme}://bucket/a/rows.jsonl.gz").rows) == ROWS


@needs_server
def test_a_prefix_is_a_folder(bucket: Any):
    bucket.pipe(
        {
            "bucket/d/train.jsonl": LINES,
            "bucket/d/sub/test.jsonl": b'{"n": -1}',
            "bucket/d/README.md": b"# About",
            "bucket/d/.hidden/train.jsonl": b"{}",
            "bucket/d-not/train.jsonl": b"{}",
        }
    )
    for url in ("s3://bucket/d", "s3://bucket/d/"):
        assert list(load(url).rows) == ROWS
        test = load(url, split="test")
        assert list(test.rows) == [{"n": -1}]
        assert test.place(0) == "s3://bucket/d/sub/test.jsonl: row 1"
    assert list(load("s3://bucket/d", data_files="sub/*").rows) == [{"n": -1}]
    with pytest.raises(DataError, match=r"^s3://bucket/d: the folder holds no file that matches x\*"):
        load("s3://bucket/d", data_files="x*")


@needs_server
def test_a_saved_data_set_is_read(bucket: Any, tmp_path: Path):
    import datasets

    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:3])}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    bucket.put(str(tmp_path / "saved"), "bucket/saved", recursive=True)
    assert list(load("s3://bucket/saved").rows) == ROWS
    assert list(load("s3://bucket/saved", split="test").rows) == ROWS[:3]


@needs_server
def test_what_is_not_there_is_said(bucket: Any):
    for url in ("s3://bucket/none.jsonl", "s3://no-such-bucket/rows.jsonl"):
        with pytest.raises(DataError, match=f"^{url}: there is nothing there"):
            load(url)
    bucket.pipe("bucket/bad.jsonl", b"{}\n{")
    with pytest.raises(DataError, match=r"^s3://bucket/bad\.jsonl: line 2: no JSON"):
        list(load("s3://bucket/bad.jsonl").rows)


@needs_server
def test_a_server_that_is_not_there_and_unknown_credentials_are_said(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
):
    bucket.pipe("bucket/rows.jsonl", LINES)
    type(bucket).clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(
        DataError, match=r"s3://bucket/rows\.jsonl: cannot be read \(Unable to locate credentials"
    ) as error:
        load("s3://bucket/rows.jsonl")
    assert "AWS_PROFILE" in error.value.fix
    assert "FSSPEC_S3_ANON=true" in error.value.fix
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    type(bucket).clear_instance_cache()
    with pytest.raises(DataError, match="Could not connect to the endpoint") as error:
        load("s3://bucket/rows.jsonl")
    assert "s3cret" not in str(error.value)


@needs_server
def test_the_fingerprint_is_of_marks_and_follows_every_change(bucket: Any):
    bucket.pipe({"bucket/d/a.jsonl": LINES, "bucket/d/b.jsonl": LINES})
    seen = [fingerprint_entry(entry("s3://bucket/d"))]
    assert seen == [fingerprint_entry(entry("s3://bucket/d"))]
    bucket.pipe("bucket/d/b.jsonl", LINES[:-1] + b" ")
    seen.append(fingerprint_entry(entry("s3://bucket/d")))
    bucket.pipe("bucket/d/c.jsonl", LINES)
    seen.append(fingerprint_entry(entry("s3://bucket/d")))
    bucket.rm("bucket/d/a.jsonl")
    seen.append(fingerprint_entry(entry("s3://bucket/d")))
    assert None not in seen
    assert len(set(seen)) == 4


@needs_server
def test_without_marks_the_bytes_are_the_fingerprint(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    from siredon.data import cloud

    monkeypatch.setattr(cloud, "_MARKS", ())
    monkeypatch.setattr(cloud, "_DATES", ())
    bucket.pipe("bucket/rows.jsonl", LINES)
    assert fingerprint_entry(entry("s3://bucket/rows.jsonl")) is None
    first = fingerprint_hub(load("s3://bucket/rows.jsonl"))
    assert first == fingerprint_hub(load("s3://bucket/rows.jsonl"))
    bucket.pipe("bucket/rows.jsonl", LINES.replace(b"7", b"8"))
    assert fingerprint_hub(load("s3://bucket/rows.jsonl")) not in ("", first)


@pytest.mark.parametrize("scheme", CLOUDS)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
):
    find, (package, extra) = importlib.util.find_spec, CLOUDS[scheme]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
    )
    with pytest.raises(DataError) as error:
        load(f"{scheme}://bucket/rows.jsonl?key=s3cret")
    assert error.value.message == f"{scheme}://bucket/rows.jsonl: {scheme}:// needs the package {package}"
    assert error.value.fix == f"Run: pip install 'siredon[{extra}]'"


def test_the_extras_bring_the_packages_that_messages_name():
    import tomllib

    from tests.conftest import ROOT

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in CLOUDS.values():
        assert [re.match(r"\w+", line)[0] for line in extras[extra]] == [package]  # type: ignore[index]
