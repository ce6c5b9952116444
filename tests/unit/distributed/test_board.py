from __future__ import annotations

import threading
from typing import Any

import pytest
import torch.distributed as dist

from siredon.distributed.board import Board


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    return server


def test_what_one_rank_writes_another_reads(store: Any):
    one, other = Board("here"), Board("here")
    assert other.read("word") is None
    one.write("word", "ä" * 20_000)
    assert other.read("word") == "ä" * 20_000
    one.write("word", "")
    assert other.read("word") == ""
    assert Board("elsewhere").read("word") is None


def test_of_two_that_write_first_one_does(store: Any):
    one, other = Board("here"), Board("here")
    assert one.write_first("failed", "0") == "0"
    assert other.write_first("failed", "1") == "0"
    assert other.read("failed") == "0"


def test_a_word_is_waited_for_and_no_longer_than_asked(store: Any):
    one, other = Board("here"), Board("here")
    assert other.wait("word", 0.0) is None
    threading.Timer(0.1, one.write, ("word", "there")).start()
    assert other.wait("word", 60.0) == "there"


def test_ranks_that_are_started_again_read_nothing_of_before(store: Any, monkeypatch: pytest.MonkeyPatch):
    Board("here").write("word", "old")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Board("here").read("word") is None


def test_a_store_that_is_not_there_is_a_runtime_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("siredon.distributed.board._SECONDS_TO_CONNECT", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RuntimeError):
        Board("here")
