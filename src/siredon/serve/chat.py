"""Prompts in, answers on the screen; each is answered by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from siredon.log import is_terminal, note, show
from siredon.serve.conversation import Voice, fit_length
from siredon.serve.engines.transformers import Engine
from siredon.serve.sampling import Sampling
from siredon.serve.screen import Printer
from siredon.serve.watch import Piece, Watch

Render = Callable[[str], str]


def answer_prompts(engine: Engine, render: Render, prompts: Sequence[str], sampling: Sampling) -> None:
    """Shows the answer to each prompt."""
    for prompt in prompts:
        if len(prompts) > 1:
            show(f"> {prompt}", verbatim=True)
        show(_answer(engine, render(prompt), sampling), verbatim=True)


def compare_prompts(
    base: Engine, tuned: Engine, render: Render, prompts: Sequence[str], sampling: Sampling
) -> None:
    """Shows the answers of the base model and of the tuned one side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table("question", "base model", "tuned model", show_lines=True)
    for prompt in prompts:
        text = render(prompt)
        table.add_row(prompt, _answer(base, text, sampling), _answer(tuned, text, sampling))
    console = Console(width=None if is_terminal(sys.stdout) else 120, highlight=False, markup=False)
    console.print(table)


def run_prompt_loop(engine: Engine, render: Render, sampling: Sampling) -> None:
    """Asks for one prompt after another; each is answered on its own, until end of input or an empty line."""
    note(
        "One prompt a line, each answered on its own: `siredon chat` keeps turns. An empty line or Ctrl-D ends."
    )
    voice = Voice(engine)
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        _stream(voice, render(line.strip()), sampling)


def _stream(voice: Voice, prompt: str, sampling: Sampling) -> None:
    printer = Printer(sys.stdout)

    def hand_on(piece: Piece) -> None:
        printer.feed(piece.text)

    voice.answer(prompt, sampling, Watch(hand_on))
    printer.end()


def _answer(engine: Engine, prompt: str, sampling: Sampling) -> str:
    return engine.answer(prompt, fit_length(engine, len(engine.encode(prompt)), sampling))
