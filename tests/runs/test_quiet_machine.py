"""A run asks nobody on the network, and writes what only the user may change."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.test_cache import make_content

from siredon.data.cache import load_or_make

_SCRIPT = """
import os, sys

ASKS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

def forbid(event, args):
    # `socketpair` and pipes of this machine have no address that is a pair
    if event in ASKS and (event.startswith("socket.get") or isinstance(args[1], tuple)):
        os.write(2, f"ASKED: {event} {args[1:]}\\n".encode())
        raise OSError("no network")

sys.addaudithook(forbid)
os.umask(0)
from siredon.cli.app import main

# What a first verb says and asks is what its own imports do: training is the first that loads a model's libraries
for words in (["check"], ["train"], ["preprocess"], ["merge-lora"], ["inference", "--prompt", "a"]):
    sys.argv = ["siredon", words[0], sys.argv[-1], *words[1:]]
    kept = sys.argv[2]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    sys.argv = ["", kept]
"""


def test_nothing_is_asked_on_the_network_and_nothing_is_open_to_others(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As on a machine with a network: nothing says that there is none
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    config = write_config(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True, max_steps=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(config)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "ASKED" not in done.stderr
    assert "Failed to load" not in done.stderr  # torchao and bitsandbytes, of what this machine lacks
    written = [path for path in tmp_path.rglob("*") if path not in before]
    assert len(written) > 20
    for path in written:
        mode = path.lstat().st_mode
        assert not mode & stat.S_IWOTH or stat.S_ISLNK(mode), path
        assert not (stat.S_ISREG(mode) and mode & 0o111), path
    assert list((tmp_path / "tmp").iterdir()) == []  # Nothing is left in the common folder


def test_the_mask_of_the_user_stays(tmp_path: Path):
    for mask, folder_mode, file_mode in ((0o077, 0o700, 0o600), (0o022, 0o755, 0o644), (0o002, 0o775, 0o664)):
        before = os.umask(mask)
        try:
            load_or_make(tmp_path / f"{mask:o}", "0" * 24, lambda: make_content(0))
        finally:
            os.umask(before)
        folder = tmp_path / f"{mask:o}" / ("0" * 24)
        assert folder.stat().st_mode & 0o777 == folder_mode
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {file_mode}
