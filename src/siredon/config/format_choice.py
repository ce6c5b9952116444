"""What is wrong with the `type` of a data set, if anything: a name, a function by its dotted path, or a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from siredon.config.functions import find_function
from siredon.config.rule import Finding
from siredon.config.sections.data import PromptFormat
from siredon.config.shelves import (
    FORMATS,
    KNOWN_FORMATS,
    PREFERENCE_FORMATS,
    find_variant,
    split_type,
    variants_of,
)
from siredon.registry import find_clear, suggest

#: The function of a module that is named without one.
FUNCTIONS = ("read", "load")
#: What a function of the user's must do.
WANTED = (
    'Write a function that takes a row (a dict) and returns `{"messages": [...]}`, `{"text": ...}`, '
    '`{"prompt": ..., "completion": ...}` or `{"segments": [...]}`.'
)


def check_choice(key: str, choice: str | PromptFormat) -> Iterator[Finding]:
    """What is wrong with a `type`.

    Args:
        key: The key, dotted.
        choice: Its value.
    """
    if isinstance(choice, PromptFormat):
        if choice.drops_input:
            message = "`field_input` names a column, and `format` has no place for it"
            yield Finding(
                f"{key}.field_input", message, "Put `{input}` into `format`, or remove `field_input`."
            )
        return
    head, mark, _ = split_type(choice)
    names = FORMATS.names()
    if choice in ("user_defined", "user_defined.default"):
        fix = (
            "Give `type` a mapping: `type: {field_instruction: question, field_output: answer, format: ...}`."
        )
        yield Finding(key, f"`type: {choice}` does not say what the prompt is", fix, value=choice)
    elif head in names:
        if mark:
            yield from _check_variant(key, choice)
    elif head == "bradley_terry":
        return  # SD0690 says which method it is for
    elif head in PREFERENCE_FORMATS.names():
        yield _refuse_pairs(key, choice)
    elif head in KNOWN_FORMATS:
        yield _refuse(key, choice, names, known=True)
    elif mark == ".":
        yield from _check_function(key, choice)
    else:
        yield _refuse(key, choice, all_types() if mark else names, known=False)


@cache
def all_types() -> tuple[str, ...]:
    """Every name of a format that is built, and its variants behind it."""
    found = []
    for name in FORMATS.names():
        found += [name, *(f"{name}{_mark(word)}{word}" for word in variants_of(FORMATS, name))]
    return tuple(found)


def _mark(variant: str) -> str:
    """What the reference writes before a variant."""
    return "." if variant.startswith("load") else ":"


def _check_variant(key: str, choice: str) -> Iterator[Finding]:
    head, mark, variant = split_type(choice)
    variants = variants_of(FORMATS, head)
    if variant in variants:
        return
    if find_variant(PREFERENCE_FORMATS, choice) is not None:
        yield _refuse_pairs(key, choice)
        return
    yield _refuse(key, choice, [head, *(f"{head}{mark}{word}" for word in variants)], known=False)


def _refuse_pairs(key: str, choice: str) -> Finding:
    message = f"`type: {choice}` reads two answers to a prompt, one of which is better"
    return Finding(key, message, "Add `rl: dpo`, or name a format of rows with one answer.", value=choice)


def _check_function(key: str, choice: str) -> Iterator[Finding]:
    """A function is there, and takes a row."""
    if choice.startswith("axolotl."):
        yield Finding(key, refuse_parameters(choice, ["tokenizer"]), WANTED, value=choice)
        return
    found = find_function(choice, FUNCTIONS)
    refused = refuse_parameters(f"{found.module}.{found.function}", found.parameters or ())
    if found.problem:
        known = all_types()
        message = f"`type: {choice}` is neither a format nor a function: {found.problem}"
        fix, clear = suggest(choice, known, cutoff=0.75) or found.fix, find_clear(choice, known)
        yield Finding(key, message, f"{fix.strip()} {WANTED}", value=choice, replacement=clear)
    elif refused:
        yield Finding(key, refused, WANTED, value=choice)


def refuse_parameters(path: str, parameters: Sequence[str]) -> str:
    """What is wrong with the parameters that a function must be given; empty if a row will do."""
    if "tokenizer" in parameters or "cfg" in parameters:
        return f"`{path}` is a loader for Axolotl: it makes tokens and labels, which cannot be checked"
    if len(parameters) > 1:
        shown = " and ".join(f"`{name}`" for name in parameters)
        return f"`{path}` must be given {shown}, and gets a row alone"
    return ""


def _refuse(key: str, choice: str, built: Sequence[str], *, known: bool) -> Finding:
    """A name that is no format: one of the reference that is not built, or a slip."""
    shown = f"`type: {choice}`"
    near = "" if known else suggest(choice, built).strip()
    return Finding(
        key,
        f"{shown} is known but not built yet" if known else f"{shown} is no format that is built",
        near or f"Built: {', '.join(f'`{word}`' for word in built)}.",
        value=choice,
        replacement=None if known else find_clear(choice, built),
    )
