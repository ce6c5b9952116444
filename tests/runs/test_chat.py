"""`siredon chat` in a real terminal, and `siredon inference` over a file."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import build_model
from typer.testing import CliRunner, Result

from siredon.cli.app import app


class Terminal:
    """A program behind a terminal."""

    def __init__(self, words: list[str]) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
        environment.pop("NO_COLOR", None)
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "siredon", *words],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 200) -> str:
        """Reads until `text` comes, and returns all from where it was left the last time."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], 1)
            if ready:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    break
            assert time.monotonic() < end, f"{text!r} did not come, but {self.seen!r}"
        before, found, self.seen = self.seen.partition(text)
        assert found, f"{text!r} did not come, but {before!r}"
        return before + found

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    opened = Terminal(list(words))
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.master)


@pytest.fixture(scope="module")
def endless_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends by itself: its stop tokens are the unlikeliest of all."""
    folder = tmp_path_factory.mktemp("endless")
    model = build_model(len(tokenizer), tied=False)
    with torch.no_grad():
        model.lm_head.weight[:8] = 0
        model.lm_head.weight[40:] *= 3
    model.config.max_position_embeddings = 200_000
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_ctrl_c_stops_the_answer_and_a_second_one_at_the_prompt_ends(endless_folder: Path, tmp_path: Path):
    saved = tmp_path / "talk.jsonl"
    with terminal("chat", str(endless_folder), "--max-new-tokens", "100000") as chat:
        assert "\x1b[2m" in chat.wait_for("Ctrl-D ends.")
        chat.wait_for("> ")
        chat.type("Who are you?\n")
        chat.wait_for("Who are you?\r\n")
        chat.wait_for("a", 60)  # Some of the answer is there
        chat.type("\x03")
        chat.wait_for("Stopped.")
        chat.type(f"/save {saved}\n")
        chat.wait_for("a row for")
        chat.type("/sta\t\n")
        assert "turns: 1" in chat.wait_for("were read before")
        chat.wait_for("> ")
        chat.type("one \\\n")
        chat.wait_for("... ")
        chat.type("two")
        chat.wait_for("two")
        time.sleep(1)  # What was typed is shown before readline waits for the next key, and for signals
        chat.type("\x03")
        chat.wait_for("Ctrl-C again")
        chat.wait_for("> ")
        end = time.monotonic() + 60
        while chat.process.poll() is None and time.monotonic() < end:
            chat.type("\x03")  # One that comes before readline waits is noticed with the next
            with suppress(subprocess.TimeoutExpired):
                chat.process.wait(10)  # One that comes while Python ends would end it by the signal
        assert chat.process.returncode == 0
    (row,) = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"]


# A file of questions


def ask(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["inference", *map(str, words)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows: list[dict[str, Any]] = [{"prompt": "a" * 3 * n + "?", "id": n} for n in range(1, 6)]
    messages = [("system", "Be kind."), ("user", "Who?"), ("assistant", "I."), ("user", "Why?")]
    rows.append({"messages": [{"role": role, "content": text} for role, text in messages]})
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_a_batch_says_what_each_question_gets_alone(model_folder: Path, questions: Path, tmp_path: Path):
    options = ("--max-new-tokens", "10", "--input", questions)
    many = ask(model_folder, *options, "--output", tmp_path / "many.jsonl", "--at-once", "4")
    assert many.exit_code == 0, many.output
    alone = ask(model_folder, *options, "--output", tmp_path / "alone.jsonl", "--at-once", "1")
    assert alone.exit_code == 0, alone.output
    rows = read(tmp_path / "many.jsonl")
    assert rows == read(tmp_path / "alone.jsonl")
    assert [
        {name: row[name] for name in row if name not in ("answer", "reason")} for row in rows
    ] == read_rows(questions)
    assert len({row["answer"] for row in rows}) > 3
    shown = CliRunner().invoke(
        app, ["inference", str(model_folder), "--prompt", "aaa?", "--max-new-tokens", "10"]
    )
    assert shown.stdout.strip() == rows[0]["answer"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_a_batch_that_was_stopped_goes_on_as_if_it_had_not_been(
    model_folder: Path, questions: Path, tmp_path: Path
):
    options = ("--max-new-tokens", "6", "--input", questions, "--at-once", "4")
    options += ("--temperature", "1.2", "--sampling-seed", "5")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert ask(model_folder, *options, "--output", whole).stdout == f"6 answers: {whole}\n"
    for num_bytes in (0, 1, whole.stat().st_size // 2, whole.stat().st_size):
        part.write_bytes(whole.read_bytes()[:num_bytes])
        assert ask(model_folder, *options, "--output", part).exit_code == 0
        assert part.read_bytes() == whole.read_bytes()
    rows = whole.read_text().splitlines()
    part.write_text("\n".join([rows[1], rows[0]]) + "\n")
    other = ask(model_folder, *options, "--output", part)
    assert f"{part}:1: is no answer to the question in {questions}:1" in str(other.exception)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is no JSON"),
        ("[1]", "either `prompt` or `messages`"),
        ('{"prompt": "a", "messages": []}', "either `prompt` or `messages`"),
        ('{"prompt": 3}', "is no text"),
        ('{"messages": []}', "no list of messages"),
        ('{"prompt": "a", "answer": "b"}', "has `answer`"),
        ('{"messages": [{"role": "king", "content": "a"}]}', "the role 'king'"),
        (json.dumps({"prompt": "sea " * 600}), "and the model reads 512"),
    ],
)
def test_a_bad_line_is_named(model_folder: Path, tmp_path: Path, line: str, problem: str):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n' + line + "\n")
    result = ask(model_folder, "--input", path, "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert f"{path}:2: " in str(result.exception)
    assert problem in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "words", [("--input", "a"), ("--output", "b"), ("--input", "a", "--output", "b", "--prompt", "c")]
)
def test_words_that_do_not_go_together_exit_with_2(model_folder: Path, words: tuple[str, ...]):
    assert ask(model_folder, *words).exit_code == 2
