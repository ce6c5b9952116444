"""Prompts in, answers on the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from siredon.log import is_terminal, note, show
from siredon.serve.engines.transformers import Engine
from siredon.serve.sampling import Sampling

Render = Callable[[str], str]


def answer_prompts(engine: Engine, render: Render, prompts: Sequence[str], sampling: Sampling) -> None:
    """Shows the answer to each prompt."""
    for prompt in prompts:
        if len(prompts) > 1:
            show(f"> {prompt}", verbatim=True)
        show(engine.answer(render(prompt), sampling), verbatim=True)


def compare_prompts(
    base: Engine, tuned: Engine, render: Render, prompts: Sequence[str], sampling: Sampling
) -> None:
    """Shows the answers of the base model and of the tuned one side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table("question", "base model", "tuned model", show_lines=True)
    for prompt in prompts:
        text = render(prompt)
        table.add_row(prompt, base.answer(text, sampling), tuned.answer(text, sampling))
    console = Console(width=None if is_terminal(sys.stdout) else 120, highlight=False, markup=False)
    console.print(table)


def run_prompt_loop(engine: Engine, render: Render, sampling: Sampling) -> None:
    """Asks for one prompt after another; each is answered on its own, until end of input or an empty line."""
    note("One prompt a line, each answered on its own. An empty line or Ctrl-D ends.")
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        engine.answer(render(line.strip()), sampling, on_text=_write)
        show()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
