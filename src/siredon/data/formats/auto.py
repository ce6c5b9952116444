"""`type: auto`: looks at the first rows, takes the one format that fits them, and says which and why.

Where several fit, it takes the one that needs more of the columns; where that does not decide, or none fits, it is
an error that names the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from siredon.config.sections.data import DatasetEntry
from siredon.data.choose import choose_format
from siredon.data.peek import first_rows
from siredon.data.types import Format, Row
from siredon.errors import DataError
from siredon.log import note

Values = Sequence[Any]
Test = Callable[[Values], bool]


@dataclass(frozen=True)
class Sign:
    """What rows of a format look like.

    Args:
        name: The `type` to take, or what the rows are.
        columns: The columns that must be there, each with what its values must be.
    """

    name: str
    columns: Mapping[str, Test]

    def fits(self, values: Mapping[str, Values]) -> bool:
        """Whether rows with these columns look like it."""
        return all(name in values and holds(values[name]) for name, holds in self.columns.items())

    def __str__(self) -> str:
        return " and ".join(
            f"`{name}` with {test}" if isinstance(test, Objects) else f"`{name}`"
            for name, test in self.columns.items()
        )


@dataclass(frozen=True)
class Objects:
    """Only lists of objects that have these properties."""

    names: tuple[str, ...]

    def __call__(self, values: Values) -> bool:
        """Whether these values are."""
        return are_lists(values) and all(
            isinstance(item, dict) and all(item.get(name) is not None for name in self.names)
            for value in values
            for item in value
        )

    def __str__(self) -> str:
        return " and ".join(f"`{name}`" for name in self.names)


def are_texts(values: Values) -> bool:
    """Only text."""
    return all(isinstance(value, str) for value in values)


def are_lists(values: Values) -> bool:
    """Only lists with something in them."""
    return all(isinstance(value, list) and value for value in values)


def are_switches(values: Values) -> bool:
    """Only true and false."""
    return all(isinstance(value, bool) for value in values)


def are_there(values: Values) -> bool:
    """Whatever it is."""
    return bool(values)


def _texts(name: str, *columns: str, **others: Test) -> Sign:
    return Sign(name, {**dict.fromkeys(columns, are_texts), **others})


_ACR = ("instruction", "answer", "revision")
_SIGNS = (
    Sign("messages", {"messages": Objects(("role",))}),
    Sign("messages", {"messages": Objects(("from", "value"))}),
    Sign("conversations", {"conversations": Objects(("role", "content"))}),
    Sign("sharegpt", {"conversations": Objects(("from", "value"))}),
    Sign("pygmalion", {"conversations": Objects(("role", "value"))}),
    Sign("tokenized", {"input_ids": are_lists}),
    Sign("input_output", {"segments": Objects(("label", "text"))}),
    _texts("completion", "text"),
    _texts("alpaca", "instruction", "output"),
    _texts("alpaca_w_system.load_instruct", "instruction", "output", "system"),
    _texts("gpteacher", "instruction", "response"),
    _texts("oasst", "INSTRUCTION", "RESPONSE"),
    _texts("reflection", "instruction", "output", "reflection", "corrected"),
    _texts("alpaca_chat.load_qa", "question", "answer"),
    _texts("jeopardy", "question", "answer", "category"),
    _texts("context_qa.load", "article", "question", "answer"),
    _texts("context_qa.load_v2", "context", "question", "answer"),
    _texts("context_qa.load_404", "article", "unanswerable_question"),
    _texts("explainchoice", "question", "explanation", choices=are_lists),
    _texts("concisechoice", "question", "explanation", choices=are_lists),
    _texts("explainchoice", "question", "solution", choices=are_lists),
    _texts("concisechoice", "question", "solution", choices=are_lists),
    _texts("summarizetldr", "article", "summary"),
    _texts("alpaca_chat.load_camel_ai", "message_1", "message_2"),
    _texts("alpaca_w_system.load_open_orca", "question", "response", "system_prompt"),
    _texts("orcamini", "question", "response", "system_prompt"),
    _texts("creative_acr.load_answer", "instruction", "revision"),
    _texts("creative_acr.load_critique", "instruction", "answer", scores=are_there, critiques=are_there),
    *(
        _texts(f"creative_acr.{name}", *_ACR, scores=are_there, critiques=are_there)
        for name in ("load_answer", "load_critique", "load_revise")
    ),
    _texts("metharme", "prompt", "generation"),
)
#: Rows that no format reads which is built.
_FOREIGN = (
    Sign(
        "pairs of a better and a worse answer, for a preference method",
        {"chosen": are_there, "rejected": are_there},
    ),
    Sign(
        "conversations that are judged, for a preference method",
        {"messages": are_lists, "label": are_switches},
    ),
    Sign(
        "answers that are judged, for a preference method", {"completion": are_there, "label": are_switches}
    ),
    Sign("rows with images", {"images": are_lists}),
    Sign("rows with videos", {"videos": are_lists}),
    Sign("rows with sound", {"audios": are_lists}),
)


def detect_format(rows: Sequence[Row]) -> tuple[str, str]:
    """The format of rows, by their columns and values.

    Args:
        rows: The first rows of a data set.

    Returns:
        What to write as `type:`, and why.

    Raises:
        DataError: No format fits, or more than one.
    """
    values = _columns_of(rows)
    shown = f"columns: {', '.join(f'`{name}`' for name in values) or 'none'}"
    for sign in _FOREIGN:
        if sign.fits(values):
            fix = (
                "No format that is built reads them; name a function of your own with `type:`, or other data."
            )
            raise DataError(f"these are {sign.name} ({shown})", fix)
    fitting = [sign for sign in _SIGNS if sign.fits(values)]
    best = [sign for sign in fitting if not any(set(sign.columns) < set(other.columns) for other in fitting)]
    names = list(dict.fromkeys(sign.name for sign in best))
    if len(names) == 1:
        return names[0], f"the rows have {best[0]}"
    if names:
        choices = " or ".join(f"`type: {name}`" for name in names)
        raise DataError(f"more than one format fits ({shown})", f"Write {choices}.")
    raise DataError(f"no format fits ({shown})", _advise(values))


def _columns_of(rows: Sequence[Row]) -> Mapping[str, Values]:
    """Column -> its values that are neither null nor empty text; without columns that hold nothing else."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and value != "":
                found.setdefault(name, []).append(value)
    return found


def _advise(values: Mapping[str, Values]) -> str:
    """What to write for columns with other names."""
    for role, content in (("role", "content"), ("from", "value")):
        for name, column in values.items():
            if Objects((role, content))(column):
                return f"Write `type: chat_template` with `field_messages: {name}`."
    if "prompt" in values and "completion" in values:
        mapping = '{field_instruction: prompt, field_output: completion, format: "{instruction}"}'
        return f"Write `type: {mapping}`, with the words of your prompt."
    return (
        "Name one with `type:`. The format `completion` takes any column as `field`, and a mapping as `type` any "
        "columns of an instruction and its answer: see docs/formats.md."
    )


def build_auto(entry: DatasetEntry) -> Format:
    """The format that fits the first rows of a data set.

    Raises:
        DataError: No format fits, or more than one; or the data set cannot be read.
    """
    rows = first_rows(entry)
    try:
        name, reason = detect_format(rows)
    except DataError as error:
        raise DataError(f"{entry.path}: `type: auto`: {error.message}", error.fix) from error
    _note_once(f"{entry.path}: `type: auto` takes `{name}`, as {reason}")
    return choose_format(entry.model_copy(update={"type": name}))


@lru_cache(maxsize=64)
def _note_once(text: str) -> None:
    """A format is built more than once in a run."""
    note(text)


FORMAT = build_auto
