"""`type: package.module.function`: a function of the user's reads the rows.

It gets a row as a dict, and returns what the row holds: messages, a text, a prompt and its completion, segments, or a
`Conversation` or `Text`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from siredon.config.format_choice import FUNCTIONS, WANTED, refuse_parameters
from siredon.config.functions import Lookup, find_function
from siredon.config.sections.data import DatasetEntry
from siredon.data.columns import read_filled
from siredon.data.formats.chat_template import FORMAT as CHAT
from siredon.data.formats.chat_template import read_conversation
from siredon.data.formats.completion import read_completion
from siredon.data.formats.input_output import read_input_output
from siredon.data.instruct import answer_text, prompt_text
from siredon.data.peek import first_rows
from siredon.data.types import Conversation, Format, ReadOptions, Row, RowError, Text
from siredon.errors import DataError

RowFunction = Callable[[dict[str, Any]], object]
Item = Conversation | Text


def build_custom(entry: DatasetEntry) -> Format:
    """The format of a function; what it makes of the first rows tells whether a chat template is needed.

    Raises:
        DataError: There is no such function, it is one for Axolotl, or the data set cannot be read.
    """
    function = load_function(entry)
    first = _try_rows(function, entry)
    chats = isinstance(first, Conversation)

    def read(row: Row, options: ReadOptions) -> Item:
        item = call_function(function, row, options)
        if isinstance(item, Conversation) and not chats:
            raise RowError(f"is a conversation by `{entry.type}`, while the first rows are none")
        return item

    ends = not isinstance(first, Text) or first.add_eos
    return Format(read=read, prompt=CHAT.prompt if chats else prompt_text, uses_template=chats, ends=ends)


def load_function(entry: DatasetEntry) -> RowFunction:
    """The function that `type:` names.

    Raises:
        DataError: It cannot be imported, or takes something else than a row.
    """
    path = str(entry.type)
    found = find_function(path, FUNCTIONS)
    if found.problem:
        raise DataError(f"{entry.path}: `type: {path}`: {found.problem}", f"{found.fix} {WANTED}")
    function: object = _import(found, entry)
    if not callable(function):
        kind = type(function).__name__
        raise DataError(f"{entry.path}: `type: {path}` is no function, but of the type {kind}", WANTED)
    refused = refuse_parameters(path, _required(function))
    if refused:
        raise DataError(f"{entry.path}: {refused}", WANTED)
    return function


def call_function(function: RowFunction, row: Row, options: ReadOptions) -> Item:
    """What a function makes of a row.

    Raises:
        RowError: It fails, or returns something else than it may.
    """
    try:
        result = function(dict(row))
    except RowError:
        raise
    except Exception as error:
        raise RowError(f"`{options.entry.type}` fails: {type(error).__name__}: {error}") from error
    if isinstance(result, (Conversation, Text)):
        return result
    if isinstance(result, Mapping):
        for columns, reader in _READERS.items():
            if all(name in result for name in columns):
                return reader(result, options)
    raise RowError(f"`{options.entry.type}` returns {_describe(result)}. {WANTED}")


def _read_messages(row: Row, options: ReadOptions) -> Item:
    entry = options.entry.model_copy(update={"field_messages": "messages"})
    return read_conversation(row, ReadOptions(entry, options.train_on_inputs, options.bos, options.eos))


def _read_text(row: Row, options: ReadOptions) -> Item:
    entry = options.entry.model_copy(update={"field": "text"})
    return read_completion(row, ReadOptions(entry, options.train_on_inputs, options.bos, options.eos))


def _read_pair(row: Row, options: ReadOptions) -> Item:
    return answer_text(read_filled(row, "prompt"), read_filled(row, "completion"), options)


_READERS: Mapping[tuple[str, ...], Callable[[Row, ReadOptions], Item]] = {
    ("messages",): _read_messages,
    ("prompt", "completion"): _read_pair,
    ("segments",): read_input_output,
    ("text",): _read_text,
}


def _try_rows(function: RowFunction, entry: DatasetEntry) -> Item | None:
    """What the first row that can be read becomes; None if there is none among the first."""
    items = (_try_row(function, row, ReadOptions(entry, False)) for row in first_rows(entry))
    return next((item for item in items if item is not None), None)


def _try_row(function: RowFunction, row: Row, options: ReadOptions) -> Item | None:
    try:
        return call_function(function, deepcopy(row), options)
    except RowError:  # Reported with its number when all rows are read
        return None


def _import(found: Lookup, entry: DatasetEntry) -> Any:
    with search_here():
        try:
            module = importlib.import_module(found.module)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            fix = "Mend the module, or install what it needs."
            raise DataError(
                f"{entry.path}: `type: {entry.type}`: {found.module} cannot be imported: {reason}", fix
            ) from error
    if found.function not in vars(module):
        raise DataError(
            f"{entry.path}: `type: {entry.type}`: {found.module} has no `{found.function}`", WANTED
        )
    return vars(module)[found.function]


@contextmanager
def search_here() -> Iterator[None]:
    """Modules in the folder where Siredon was started are found too, after all others."""
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _required(function: Callable[..., object]) -> tuple[str, ...]:
    """The names of the positional parameters that must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Compiled
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(part.name for part in parameters if part.kind in kinds and part.default is part.empty)


def _describe(result: object) -> str:
    if isinstance(result, Mapping):
        return f"a dict with {', '.join(f'`{name}`' for name in result) or 'nothing'}"
    return "nothing" if result is None else f"a value of the type {type(result).__name__}"
