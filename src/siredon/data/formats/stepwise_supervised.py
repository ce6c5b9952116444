"""`type: stepwise_supervised`: a prompt, an answer in steps, and whether each step is right.

Prompt and steps are taken as they are, without a chat template.
"""

from __future__ import annotations

from siredon.data.columns import read_column
from siredon.data.types import Format, LeftOut, ReadOptions, Row, RowError, Span, Steps, Text


def read_steps(row: Row, options: ReadOptions) -> Steps:
    """Columns `prompt`, `completions`, a list of texts, and `labels`, as many times true or false, or 1 or 0."""
    prompt, steps, labels = (read_column(row, name) for name in ("prompt", "completions", "labels"))
    if not isinstance(prompt, str):
        raise RowError("column `prompt` holds no text")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise RowError("column `completions` holds no list of texts")
    if not isinstance(labels, list) or not all(label in (0, 1) for label in labels):
        raise RowError("column `labels` holds no list of true and false")
    if len(steps) != len(labels):
        raise RowError(f"has {len(steps):,} `completions` and {len(labels):,} `labels`")
    if not steps:
        raise LeftOut("an answer has no steps")
    entry, last = options.entry, len(steps) - 1
    only_last = entry.train_on_last_step_only
    return Steps(
        options.bos + prompt,
        tuple(steps),
        tuple(
            bool(label) if number == last or not only_last else None for number, label in enumerate(labels)
        ),
        entry.step_separator,
        entry.max_completion_length,
    )


def render_prompt(text: str) -> Text:
    """The text as it is."""
    return Text((Span(text, False),), add_eos=False)


FORMAT = Format(
    read=read_steps,
    prompt=render_prompt,
    ends=False,
    reads=("step_separator", "max_completion_length", "train_on_last_step_only"),
)
