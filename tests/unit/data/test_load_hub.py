"""Data sets of a hub: one on this machine, asked by `datasets` as the real one is; then without network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.conftest import ROOT

README = """---
configs:
- config_name: one
  data_files: [{split: train, path: one/train.jsonl}, {split: test, path: one/test.jsonl}]
- config_name: two
  data_files: two.jsonl
---
"""
DATA = {
    "README.md": README.encode(),
    "one/train.jsonl": b"".join(b'{"n": %d}\n' % number for number in range(10)),
    "one/test.jsonl": b'{"n": -1}\n',
    "two.jsonl": b'{"n": 100}\n',
}
#: Name -> files, by commit; the last commit is `main`.
HUB: dict[str, dict[str, dict[str, bytes]]] = {
    "me/data": {"0" * 40: {**DATA, "two.jsonl": b'{"n": 99}\n'}, "1" * 40: DATA},
    "me/code": {"2" * 40: {"code.py": b"raise SystemExit('run!')"}},
    "me/closed": {},
}
#: What the process that loads is asked for.
QUESTIONS: list[dict[str, Any]] = [
    {"name": "one"},
    {"name": "one", "split": "test"},
    {"name": "one", "split": "train[:2] + test"},
    {"name": ["one", "two"]},
    {"name": "two", "revision": "1" * 40},
    {"name": "two", "revision": "0" * 40},
    {"name": "one", "shuffle": True, "max_samples": 3},
    {"data_files": "two.jsonl"},
    {},
    {"name": "none"},
    {"name": "one", "split": "dev"},
    {"path": "me/none"},
    {"path": "me/code"},
    {"path": "me/closed"},
]
SCRIPT = """
import json, sys
from siredon.config.sections.data import DatasetEntry
from siredon.data.load import fingerprint_entry, fingerprint_hub, load_rows
from siredon.errors import DataError

for keys in json.loads(sys.argv[1]):
    entry = DatasetEntry.model_validate({"path": "me/data", "type": "alpaca", **keys})
    try:
        source = load_rows(entry)
        answer = {
            "rows": [row["n"] for row in source.rows],
            "places": [source.place(index) for index in range(len(source.rows))],
            "before": fingerprint_entry(entry),
            "fingerprint": fingerprint_hub(source),
        }
    except DataError as error:
        answer = {"message": error.message, "fix": error.fix}
    print("answer:", json.dumps(answer))
"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api, parts = parts[0] == "api", parts[1:] if parts[0] == "api" else parts
        name, commits = "/".join(parts[1:3]), HUB.get("/".join(parts[1:3]))
        if parts[0] != "datasets" or commits is None:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not commits:
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            asked = parts[4] if len(parts) > 4 else "main"
            commit = asked if asked in commits else list(commits)[-1]
            self.answer(name, commit, parts[3] if len(parts) > 3 else "", "/".join(parts[5:]), api)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, name: str, commit: str, what: str, path: str, api: bool) -> None:
        files = HUB[name][commit]
        if what == "tree":
            inside = [one for one in files if one.startswith(f"{path}/" if path else "")]
            entries = [
                {"type": "file", "path": one, "size": len(files[one]), "oid": mark(files[one])}
                for one in inside
            ]
            self.reply(200, json.dumps(entries).encode())
        elif api:
            facts = {"_id": "1", "id": name, "sha": commit, "siblings": [{"rfilename": one} for one in files]}
            self.reply(200, json.dumps({**facts, "private": False, "gated": False, "tags": []}).encode())
        elif path in files:
            self.reply(200, files[path], {"ETag": f'"{mark(files[path])}"', "X-Repo-Commit": commit})
        else:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


def mark(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


Answers = dict[str, dict[str, Any]]


def ask(address: str, home: Path, *, offline: bool) -> Answers:
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(QUESTIONS)],
        env={
            **os.environ,
            **settings,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [
        line.removeprefix("answer: ") for line in done.stdout.splitlines() if line.startswith("answer: ")
    ]
    assert len(lines) == len(QUESTIONS), done.stderr
    return {json.dumps(keys): json.loads(line) for keys, line in zip(QUESTIONS, lines, strict=True)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """With the hub, and then without it."""
    home = tmp_path_factory.mktemp("hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    online = ask(address, home, offline=False)
    server.shutdown()
    server.server_close()
    return online, ask(address, home, offline=True)


def get(answers: Answers, **keys: Any) -> dict[str, Any]:
    return answers[json.dumps(keys)]


def test_configurations_splits_and_revisions_are_read(answers: tuple[Answers, Answers]):
    online, _ = answers
    assert get(online, name="one")["rows"] == list(range(10))
    assert get(online, name="one")["places"][3] == "me/data: row 4"
    assert get(online, name="one", split="test")["rows"] == [-1]
    assert get(online, name="one", split="train[:2] + test")["rows"] == [0, 1, -1]
    assert get(online, name="two", revision="0" * 40)["rows"] == [99]
    assert get(online, name="two", revision="1" * 40)["rows"] == [100]
    assert get(online, data_files="two.jsonl")["rows"] == [100]
    assert len(get(online, name="one", shuffle=True, max_samples=3)["rows"]) == 3


def test_several_configurations_follow_one_another(answers: tuple[Answers, Answers]):
    online, _ = answers
    both = get(online, name=["one", "two"])
    assert both["rows"] == [*range(10), 100]
    assert both["places"][10] == "me/data (two): row 1"


def test_the_fingerprint_is_known_after_loading_and_follows_commit_and_files(
    answers: tuple[Answers, Answers],
):
    online, _ = answers
    good = [answer for answer in online.values() if "rows" in answer]
    assert {answer["before"] for answer in good} == {None}
    assert len({answer["fingerprint"] for answer in good}) == len(good) == 8


def test_without_network_the_same_rows_have_the_same_fingerprint(answers: tuple[Answers, Answers]):
    online, offline = answers
    for keys in ({"name": "one"}, {"name": "one", "split": "test"}, {"name": "two", "revision": "0" * 40}):
        assert get(offline, **keys) == get(online, **keys)


@pytest.mark.parametrize(
    ("keys", "message", "fix"),
    [
        ({}, "me/data: it has several configurations", "Set `name` to one or more of ['one', 'two']."),
        ({"name": "none"}, "Available: ['one', 'two']", "Set `split` and `name`"),
        ({"name": "one", "split": "dev"}, "Should be one of ['train', 'test']", "Set `split` and `name`"),
        (
            {"path": "me/none"},
            "me/none: neither a local file or folder, nor to be had from the hub",
            "Check `path`",
        ),
        (
            {"path": "me/code"},
            "me/code: the data set is made by code that comes with it, which is never run",
            "Parquet",
        ),
        ({"path": "me/closed"}, "me/closed: the hub lets only some in", "hf auth login"),
    ],
)
def test_what_cannot_be_had_is_said(
    answers: tuple[Answers, Answers], keys: dict[str, Any], message: str, fix: str
):
    answer = get(answers[0], **keys)
    assert message in answer["message"]
    assert fix in answer["fix"]


def test_without_network_another_commit_than_the_one_that_is_wanted_is_no_substitute(
    answers: tuple[Answers, Answers],
):
    message = get(answers[1], name="two", revision="1" * 40)["message"]
    assert f"the rows that are here are not those of `revision: {'1' * 40}`" in message


def test_without_network_it_says_so(answers: tuple[Answers, Answers]):
    _, offline = answers
    assert "OfflineModeIsEnabled" in get(offline, path="me/none")["message"]
    assert "network" in get(offline, path="me/none")["fix"]
