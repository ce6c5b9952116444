"""Reserved tokens under new names: the id and the embedding row stay, the text is another."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siredon.errors import ModelError
from siredon.log import note, warn

_KEY = "added_tokens_overrides"


def rename_tokens(tokenizer: Any, names: Mapping[int, str]) -> Any:
    """A tokenizer like `tokenizer` in which each id of `names` has the text given there.

    The files of the tokenizer are rewritten in a folder that is gone afterwards, and read again.  A tokenizer in
    which all of it is done already, such as one that a run has saved, comes back as it is.

    Args:
        tokenizer: With all of it in `tokenizer.json`.
        names: Id of an added token -> its new text.

    Raises:
        ModelError: No such added token, a text that another token has, or a tokenizer of another kind.
    """
    changes = _find_changes(tokenizer, names)
    if not changes:
        return tokenizer
    with tempfile.TemporaryDirectory(prefix="siredon-tokenizer-") as work:
        folder = Path(work)
        tokenizer.save_pretrained(folder)
        for path in sorted(folder.glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(_rename(content, changes), ensure_ascii=False), encoding="utf-8")
        renamed = type(tokenizer).from_pretrained(str(folder))
    renamed.name_or_path = tokenizer.name_or_path
    _check_renamed(renamed, names)
    _check_template(renamed, changes)
    note(f"tokenizer: {', '.join(f'{old} is now {new}' for old, new in changes.items())}")
    return renamed


def _find_changes(tokenizer: Any, names: Mapping[int, str]) -> dict[str, str]:
    """Old text -> new text, where they differ."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"`{_KEY}`: a tokenizer without `tokenizer.json` ({type(tokenizer).__name__}) cannot be rewritten",
            "Add tokens at the end of the vocabulary instead: `tokens`.",
        )
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    changes: dict[str, str] = {}
    for index, text in names.items():
        if index not in added:
            nearest = sorted(added, key=lambda known: abs(known - index))[:5]
            raise ModelError(
                f"`{_KEY}`: {index} is no added token of this tokenizer",
                f"Near it are {', '.join(f'{known} ({added[known]})' for known in sorted(nearest))}."
                if nearest
                else "It has none: add tokens at the end of the vocabulary with `tokens`.",
            )
        if added[index] != text:
            changes[added[index]] = text
    vocabulary = tokenizer.get_vocab()
    for old, new in changes.items():
        if new in vocabulary and new not in changes:
            raise ModelError(
                f"`{_KEY}`: {new!r} is a token already, {vocabulary[new]}, so {vocabulary[old]} cannot have its text",
                "Choose another text.",
            )
    return changes


def _rename(content: Any, changes: Mapping[str, str]) -> Any:
    """Every text and every name of a mapping that is a changed token, anywhere in the file of a tokenizer."""
    if isinstance(content, str):
        return changes.get(content, content)
    if isinstance(content, list):
        return [_rename(item, changes) for item in content]
    if isinstance(content, dict):
        return {changes.get(name, name): _rename(value, changes) for name, value in content.items()}
    return content


def _check_renamed(tokenizer: Any, names: Mapping[int, str]) -> None:
    """Each new text is exactly its id, both ways."""
    for index, text in names.items():
        encoded = tokenizer.encode(text, add_special_tokens=False)
        if encoded != [index] or tokenizer.decode([index]) != text:
            raise ModelError(
                f"`{_KEY}`: {text!r} would be the tokens {encoded}, and {index} the text {tokenizer.decode([index])!r}",
                "Choose another text: without blanks at its ends, and none that another token is part of.",
            )


def _check_template(tokenizer: Any, changes: Mapping[str, str]) -> None:
    template = tokenizer.chat_template
    for old in changes:
        if isinstance(template, str) and old in template:
            warn(f"`{_KEY}`: the chat template writes {old}, which is no token any more")
