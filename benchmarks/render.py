"""Milliseconds to render a conversation into spans, against one plain call of its chat template.

    python benchmarks/render.py [--rounds 30] [--output benchmarks/results/render_cpu_DATE.md]

Every number is processor time, the fastest of several rounds, so that a busy machine does not change it. `plain` is
one `apply_chat_template` of transformers; `special` is the search for text of special tokens in a row.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from report import write_report
from tests.conftest import build_tokenizer

from siredon.config.shelves import TEMPLATES
from siredon.data.render import Renderer, build_renderer
from siredon.data.special_text import find_special
from siredon.data.types import Conversation, Message, Template

TURNS = (2, 8, 20, 80)
#: Name, template, special tokens beside those of the tokenizer, whether there are tools.
CASES = (
    ("chatml", "chatml", 0, False),
    ("qwen3", "qwen3", 0, False),
    ("qwen3, tools", "qwen3", 0, True),
    ("chatml, 1,000 special tokens", "chatml", 1000, False),
)
SENTENCE = "A salamander that keeps its gills lives in the lake, and <b>nowhere</b> else. "


def build_talk(turns: int, tools: bool) -> Conversation:
    """Turns of 500 characters; with tools, every fourth answer calls one."""
    messages: list[Message] = []
    for number in range(turns):
        role = "assistant" if number % 2 else "user"
        text = f"{number}: " + SENTENCE * 6
        values: dict[str, Any] = {"role": role, "content": text}
        if tools and number % 8 == 3:
            function = {"name": "look_up", "arguments": {"word": "axolotl", "limit": 3}}
            values["tool_calls"] = [{"type": "function", "function": function}]
        messages.append(Message(values, role, text, role == "assistant"))
    schema = {"type": "function", "function": {"name": "look_up", "description": "d", "parameters": {}}}
    return Conversation(tuple(messages), (schema,) if tools else None)


def measure(work: Callable[[], Any], rounds: int) -> float:
    """The fastest round, in milliseconds."""
    work()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1000 * min(times)


def build(name: str, num_specials: int) -> Renderer:
    """A renderer of a template of the shelf, with so many special tokens more."""
    template = TEMPLATES.load(name)
    assert isinstance(template, Template)
    tokenizer = build_tokenizer()
    names: list[Any] = [f"<|reserved_special_token_{number}|>" for number in range(num_specials)]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return build_renderer(tokenizer, template.source)


def report(name: str, renderer: Renderer, *, tools: bool, rounds: int) -> list[str]:
    """One line per number of turns."""
    lines = []
    for turns in TURNS:
        item = build_talk(turns, tools)
        properties = [dict(message.properties) for message in item.messages]
        options: dict[str, Any] = {"chat_template": renderer.template, "tokenize": False}
        if item.tools:
            options["tools"] = list(item.tools)
        plain = measure(partial(renderer.tokenizer.apply_chat_template, properties, **options), rounds)
        whole = measure(partial(renderer.render, item), rounds)
        special = measure(partial(find_special, item, {}, "", renderer.special), rounds)
        cells = (
            f"{plain:.2f}",
            f"{whole:.2f}",
            f"{whole / plain:.1f}",
            f"{whole / turns:.3f}",
            f"{special:.2f}",
        )
        lines.append(f"| {name} | {turns} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Rendering: milliseconds a row",
        "",
        f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()}, "
        f"transformers {metadata.version('transformers')}, Jinja2 {metadata.version('jinja2')}. Turns of 500 "
        f"characters; processor time, fastest of {arguments.rounds} rounds. `plain` is one `apply_chat_template`; "
        "`special` is the search for text of special tokens.",
        "",
        "| template | turns | plain | render | ratio | render, per turn | special |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, template, num_specials, tools in CASES:
        lines += report(name, build(template, num_specials), tools=tools, rounds=arguments.rounds)
    write_report(lines, arguments.output)


if __name__ == "__main__":
    main()
