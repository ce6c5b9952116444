"""The chat on a terminal: reads what is typed, answers, and obeys commands and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from siredon.data.types import RowError
from siredon.errors import DataError, SiredonError
from siredon.log import is_terminal
from siredon.serve.command import COMMANDS, run_command
from siredon.serve.screen import Printer, paint_prompt, say, show_beside
from siredon.serve.settings import SETTINGS, STOP
from siredon.serve.talk import Talk
from siredon.serve.watch import Reason

FindEnd = Callable[[], Reason | None]


def run_chat(talk: Talk) -> None:
    """Talks until the end of input, `/quit`, or Ctrl-C twice.

    Ctrl-C ends the answer that is being written, and keeps what was said of it.
    """
    say(_greet(talk))
    with _editing(is_terminal(sys.stdin) and is_terminal(sys.stdout)) as edits:
        warned = False
        while True:
            try:
                line = _read_lines(edits=edits)
            except KeyboardInterrupt:
                if warned:
                    say("")
                    return
                say("\nCtrl-C again, Ctrl-D or /quit ends the chat.")
                warned = True
                continue
            warned = False
            if line is None:
                if is_terminal(sys.stdin):
                    say("")
                return
            if line.strip() and _obey(talk, line):
                return


def _greet(talk: Talk) -> str:
    names = "base model and tuned model" if len(talk.sides) > 1 else talk.main.name
    turns = (
        ""
        if talk.phrasing.keeps_turns
        else (
            f"\n`type: {talk.phrasing.entry.type}` asks one question at a time: each is answered by itself."
        )
    )
    return f"Chat with {names}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.{turns}"


def _obey(talk: Talk, line: str) -> bool:
    """Runs one line; says whether the chat is over."""
    try:
        if line.startswith("/") and not line.startswith("//"):
            reply = run_command(talk, line[1:])
            if reply.text:
                say(reply.text)
            if reply.then == "retry":
                _answer(talk, talk.retry)
            return reply.then == "quit"
        question = line[1:] if line.startswith("//") else line
        _answer(talk, lambda on_text, find_end: talk.ask(question, on_text, find_end))
    except SiredonError as error:
        say(f"error: {error}", is_problem=True)
    except RowError as error:
        say(f"error: {error}\n  fix: Take it back: `/system off`, `/new`.", is_problem=True)
    except KeyboardInterrupt:
        say("\nThe answer was dropped.")
    return False


def _answer(talk: Talk, ask: Callable[[Callable[[str, str], None], FindEnd], None]) -> None:
    """Shows an answer while it is written; two of them side by side, once both are there."""
    printer = Printer(sys.stdout)
    beside = len(talk.sides) > 1
    if beside:
        say(f"{' and '.join(side.name for side in talk.sides)}, one after the other ...")
    with _stoppable() as find_end:
        try:
            ask((lambda name, text: None) if beside else (lambda name, text: printer.feed(text)), find_end)
        finally:
            if not beside:
                printer.end()
    if beside:
        names = [side.name for side in talk.sides]
        show_beside(names, [side.messages[-1]["content"] for side in talk.sides])
    reasons = {side.answer.reason for side in talk.sides if side.answer}
    if "cancelled" in reasons:
        say("Stopped.")
    elif "length" in reasons:
        say(
            "The answer was cut at `max_new_tokens`, or at the model's last position: /set max_new_tokens 2000"
        )


@contextmanager
def _stoppable() -> Iterator[FindEnd]:
    """While an answer is written, the first Ctrl-C only asks for its end; the second one does not wait for it."""
    asked = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.signal(signal.SIGINT, receive)
    try:
        yield lambda: "cancelled" if asked.is_set() else None
    finally:
        signal.signal(signal.SIGINT, before)


def _read_lines(*, edits: bool) -> str | None:
    """What is typed next: lines that end with a backslash are one with the next; None at the end of input."""
    lines: list[str] = []
    while True:
        line = _read_line("... " if lines else "> ", edits=edits)
        if line is None:
            return "\n".join(lines) if lines else None
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])


def _read_line(prompt: str, *, edits: bool) -> str | None:
    if edits:
        try:
            return input(paint_prompt(prompt, edits=True))
        except EOFError:
            return None
    if is_terminal(sys.stdin):
        sys.stderr.write(paint_prompt(prompt, edits=False))
        sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin holds bytes that are no UTF-8: {error.reason}", "Save the text as UTF-8."
        ) from error
    return line.rstrip("\n") if line else None


@contextmanager
def _editing(wanted: bool) -> Iterator[bool]:
    """Lines with a history and completed commands, by readline where Python has it; says whether `input` is used."""
    if not wanted:
        yield False
        return
    try:
        import readline
    except ImportError:
        yield True
        return
    words = [f"/{name}" for name in COMMANDS.names()]
    readline.set_completer(lambda text, state: _complete(readline, words, text, state))
    readline.set_completer_delims(" \t\n")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield True
    finally:
        readline.set_completer(None)


def _complete(readline: Any, words: list[str], text: str, state: int) -> str | None:
    """The command, or the name of a setting, that a half-written word may become."""
    line = readline.get_line_buffer()
    known = (
        [f"{name} " for name in (*SETTINGS, STOP)]
        if line.startswith("/set ")
        else [f"{word} " for word in words]
    )
    found = [word for word in known if text and word.startswith(text)] if line.startswith("/") else []
    return found[state] if state < len(found) else None
