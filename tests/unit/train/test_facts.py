"""What the record says of the environment and of the folder's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from siredon.train.facts import describe_checkout, describe_variables


def test_variables_of_libraries_are_told_and_no_secret_is(monkeypatch: pytest.MonkeyPatch):
    told = {"OMP_NUM_THREADS": "3", "NCCL_ALGO": "Ring", "HF_HOME": "/models", "PYTHONHASHSEED": "7"}
    secret = {
        "HF_TOKEN": "hf_abcdefghijklmnopqrst",
        "HF_PAT": "abc",  # Too short to be looked for in other texts
        "NCCL_PASSWORD": "hunter2hunter2",
        "ACCELERATE_API_KEY": "longer-than-six",
    }
    left = {"HOME": "/home/me", "AWS_SECRET_ACCESS_KEY": "unseen-by-all", "TORCHINDUCTOR_CACHE_DIR": "/tmp/x"}
    places = {"HF_ENDPOINT": "https://me:swordfish@hub.example/x", "NCCL_DEBUG_FILE": "log-hunter2hunter2"}
    for name, value in {**told, **secret, **left, **places}.items():
        monkeypatch.setenv(name, value)
    found = describe_variables()
    assert told.items() <= found.items()
    assert found["HF_ENDPOINT"] == "https://***@hub.example/x"
    assert found["NCCL_DEBUG_FILE"] == "log-***"
    assert not {*secret, *left} & found.keys()


def test_a_checkout_is_told_by_its_commit_and_by_what_changed_since(tmp_path: Path):
    def git(*words: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert describe_checkout(tmp_path) is None
    git("init")
    (tmp_path / "a.txt").write_text("one\n")
    git("add", "a.txt")
    git("commit", "-m", "first")
    clean = describe_checkout(tmp_path, "a.txt")
    assert clean is not None
    assert not clean["changes"]
    assert len(clean["commit"]) == 40
    assert describe_checkout(tmp_path, "b.txt") is None
    (tmp_path / "a.txt").write_text("two\n")
    changed = describe_checkout(tmp_path)
    (tmp_path / "b.txt").write_text("new\n")
    more = describe_checkout(tmp_path)
    assert changed is not None
    assert more is not None
    assert changed["commit"] == more["commit"] == clean["commit"]
    assert len({clean["changes"], changed["changes"], more["changes"]}) == 3
