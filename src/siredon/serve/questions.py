"""A file of questions, read and checked before a model is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.errors import DataError


@dataclass(frozen=True)
class Question:
    """A line of the file.

    Args:
        line: Its number, from 1.
        row: What it holds.
        messages: What is asked.
    """

    line: int
    row: dict[str, Any]
    messages: tuple[Any, ...]


@dataclass(frozen=True)
class Batch:
    """Questions, and where their answers go.

    Args:
        source: The file they are from.
        questions: The questions.
        output: The file of the answers.
        size: So many are answered at a time.
    """

    source: Path
    questions: tuple[Question, ...]
    output: Path
    size: int


def read_batch(source: Path, output: Path, size: int) -> Batch:
    """Reads a JSON-lines file whose rows have a `prompt`, which is a text, or `messages`.

    Raises:
        DataError: The file cannot be read, or a line is no question: by file and line.
    """
    if source.resolve() == output.resolve():
        raise DataError(f"{source} is input and output", "Name another `--output`.")
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}", "Name a file of JSON lines in UTF-8.") from error
    questions = [
        _read_line(line, f"{source}:{number}", number) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not questions:
        raise DataError(
            f"{source} holds no question", 'Write a line for each, such as {"prompt": "Who are you?"}.'
        )
    return Batch(source, tuple(questions), output, size)


def _read_line(line: str, where: str, number: int) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON: {error}", "Write one JSON object a line.") from error
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise DataError(
            f"{where}: must have either `prompt` or `messages`",
            'Write {"prompt": "Who are you?"} or {"messages": [{"role": "user", "content": "Who are you?"}]}.',
        )
    taken = sorted({"answer", "reason"} & set(row))
    if taken:
        raise DataError(f"{where}: has `{taken[0]}`, which the answer goes to", "Give it another name.")
    if "prompt" in row:
        if not isinstance(row["prompt"], str) or not row["prompt"]:
            raise DataError(f"{where}: `prompt` is no text", "Write the question between quotes.")
        return Question(number, row, ({"role": "user", "content": row["prompt"]},))
    if not isinstance(row["messages"], list) or not row["messages"]:
        raise DataError(f"{where}: `messages` is no list of messages", "Write the messages in `[...]`.")
    return Question(number, row, tuple(row["messages"]))
