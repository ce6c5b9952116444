"""What a chat looks like: answers as they come, thoughts dimmed, two models side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from siredon.data.messages import THINK_TAGS
from siredon.log import is_terminal, note
from siredon.serve.watch import count_beginning

_DIM, _BOLD, _RED, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
#: Control characters that a terminal would obey, as their pictures; line feeds and tabs stay.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def is_colourful(stream: TextIO) -> bool:
    """Whether a stream is a terminal with colours that nobody has switched off."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def make_harmless(text: str) -> str:
    """Text without characters that move the cursor or change the terminal."""
    return text.replace("\r\n", "\n").translate(_PICTURES)


@dataclass
class Printer:
    """Writes an answer as it comes; on a terminal, what is between the tags of a thought is dim.

    Args:
        stream: Where it goes.
        held: Text that may be the beginning of a tag.
        closing: The tag that ends the thought that has begun; empty outside of one.
    """

    stream: TextIO
    held: str = ""
    closing: str = field(default="", init=False)

    def feed(self, text: str) -> None:
        """Writes the next words."""
        if not is_terminal(self.stream):
            self._write(text)
            return
        text = self.held + make_harmless(text)
        while True:
            tags = (self.closing,) if self.closing else tuple(opening for opening, _ in THINK_TAGS)
            places = [(text.find(tag), tag) for tag in tags if tag in text]
            if not places:
                break
            place, tag = min(places)
            if self.closing:
                self._write(text[: place + len(tag)])
                self.closing = ""
                self._paint(_PLAIN)
            else:
                self._write(text[:place])
                self._paint(_DIM)
                self._write(tag)
                self.closing = dict(THINK_TAGS)[tag]
            text = text[place + len(tag) :]
        kept = count_beginning(text, tags)
        self.held = text[len(text) - kept :]
        self._write(text[: len(text) - kept])

    def end(self) -> None:
        """Writes what was held back, and ends the line."""
        self._write(self.held)
        if self.closing:
            self._paint(_PLAIN)
        self.held, self.closing = "", ""
        self._write("\n")

    def _paint(self, code: str) -> None:
        if is_colourful(self.stream):
            self._write(code)

    def _write(self, text: str) -> None:
        if text:
            self.stream.write(text)
            self.stream.flush()


def say(text: str, *, is_problem: bool = False) -> None:
    """Writes what the chat itself says to stderr: dim, or red where something cannot be done."""
    if not is_terminal(sys.stderr):
        note(text)
        return
    text = make_harmless(text)
    colour = _RED if is_problem else _DIM
    note(f"{colour}{text}{_PLAIN}" if is_colourful(sys.stderr) else text)


def paint_prompt(text: str, *, edits: bool) -> str:
    """What stands before the cursor, bold on a terminal.

    Args:
        text: What stands there.
        edits: It is for readline, which must be told which characters have no width.
    """
    if not is_colourful(sys.stderr):
        return text
    return f"\x01{_BOLD}\x02{text}\x01{_PLAIN}\x02" if edits else f"{_BOLD}{text}{_PLAIN}"


def show_beside(names: Sequence[str], texts: Sequence[str]) -> None:
    """Shows answers side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*names, expand=True)
    harmless = make_harmless if is_terminal(sys.stdout) else str
    table.add_row(*(harmless(text).strip() for text in texts))
    Console(width=None if is_terminal(sys.stdout) else 120, highlight=False, markup=False).print(table)
