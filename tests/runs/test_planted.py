"""No secret is in anything that is written or shown: see `tests/planted.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.planted import SECRETS, plant, run_all, run_here, search, spell

from siredon import redaction
from siredon.data import web


def test_no_secret_is_in_what_is_written_or_shown(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for name, value in plant(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(redaction, "_LEARNED", set())
    monkeypatch.setattr(web, "PAUSES_SECONDS", (0.0,))

    def run(words: list[str]) -> tuple[int, str]:
        status = run_here(words)
        shown = capfd.readouterr()
        return status, shown.out + shown.err

    outcome = run_all(tmp_path, model_folder, run)
    assert outcome.found == []
    # Everything was reached, and said what it should without what it must not
    works = ("config", "env", "preprocess", "inspect", "train", "inference", "merge")
    for name, status in outcome.statuses.items():
        assert status == (0 if name.startswith(works) else 2 if "usage" in name else 1), outcome.shown[name]
    assert "comet_api_key: ***" in outcome.shown["check, with errors"]
    assert "LookupError: *** ***" in outcome.shown["a crash while training"]
    assert "RuntimeError: *** *** https://***@host/a" in outcome.shown["a function raises"]
    for status in ("401", "403", "404", "500"):
        assert f"(status {status})" in outcome.shown[f"source: {status}"]
    assert "(status 404)" in outcome.shown["source: moved"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["data"]["datasets"][0]["path"].endswith("/rows.jsonl?***")
    assert record["finished"]["num_steps"] == 3
    assert outcome.num_files > 40


def test_the_search_finds_a_secret_however_it_is_written():
    import base64
    from urllib.parse import quote

    for name, secret in SECRETS.items():
        for before in ("", "m", "me", "me:"):
            coded = base64.b64encode(f"{before}{secret};".encode())
            for text in (coded, f"x{before}{secret}y".encode(), quote(before + secret, safe="").encode()):
                assert any(found.startswith(f"{name} in") for found in search(text, "text")), (name, text)
    assert search(b"nothing", "text") == []
    assert all(min(map(len, spell(secret))) > 5 for secret in SECRETS.values())
