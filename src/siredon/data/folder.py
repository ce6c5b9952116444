"""Which files of a folder belong to which split, by their names or by the README of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from siredon.data.files import find_kind, is_data_file
from siredon.errors import DataError

#: Splits, each with the files that it is made of.
Splits = dict[str, list[str]]

_KEYWORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_NUMBERED = re.compile(r"data/([\w.]+)-\d{5}-of-\d{5}[^/]*$")
#: What `datasets` writes beside data.
_NO_DATA = {
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}


def find_splits(names: Sequence[str], kind: str | None, label: str) -> Splits:
    """Splits of a folder, as `datasets` finds them.

    In this order: files such as `data/train-00000-of-00001.parquet`; folders, then files, whose names hold
    `train`, `validation` or `test` as a word, or a like one; else everything is `train`.

    Args:
        names: Files, as paths inside the folder with `/`.
        kind: `ds_type`, if it is set.
        label: How messages call the folder.

    Raises:
        DataError: The files are of several kinds.
    """
    names = _choose_kind([name for name in names if PurePosixPath(name).name not in _NO_DATA], kind, label)
    numbered: Splits = {}
    for name in names:
        if found := _NUMBERED.match(name):
            numbered.setdefault(found[1], []).append(name)
    by_folder = _match_words(names, lambda name: PurePosixPath(name).parts[:-1], "(?:[-._ 0-9]|$)")
    by_file = _match_words(names, lambda name: PurePosixPath(name).parts[-1:], "[-._ 0-9]")
    return numbered or by_folder or by_file or ({"train": names} if names else {})


def _choose_kind(names: Sequence[str], kind: str | None, label: str) -> list[str]:
    """The files of the one kind that is there; texts beside other data, such as a licence, are no data."""
    kinds = {name: find_kind(name) for name in names}
    if kind is not None:
        return [name for name in names if kinds[name] == kind] or list(names)
    data = [name for name in names if is_data_file(name)]
    found = sorted({kinds[name] or "archive" for name in data} - {"text"})
    if len(found) > 1:
        raise DataError(
            f"{label}: the folder holds files of several kinds: {' and '.join(found)}",
            "Choose with `ds_type` or `data_files`, or give each its own entry.",
        )
    return [name for name in data if not found or kinds[name] != "text"]


def _match_words(names: Sequence[str], parts: Callable[[str], Sequence[str]], after: str) -> Splits:
    """Files by the split whose word is in one of the parts of their names."""
    found: Splits = {}
    for split, words in _KEYWORDS.items():
        pattern = re.compile(rf"(?:^|.*[-._ 0-9])(?:{words}){after}")
        if chosen := [name for name in names if any(pattern.match(part) for part in parts(name))]:
            found[split] = chosen
    return found


def match_names(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Files that one of the patterns means, in which `**` stands for any number of folders."""
    wanted = re.compile("|".join(_translate(pattern.removeprefix("./")) for pattern in patterns))
    return [name for name in names if wanted.fullmatch(name)]


def _translate(pattern: str) -> str:
    """A glob pattern as a regular expression."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return "".join(
        signs.get(piece)
        or (piece.replace("[!", "[^") if piece.startswith("[") and len(piece) > 2 else re.escape(piece))
        for piece in pieces
    )


def read_configurations(readme: str) -> dict[str, dict[str, Any]]:
    """Configurations that the head of a data set's README lists, by name."""
    import yaml

    head = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    try:
        facts = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        facts = None
    listed = facts.get("configs") if isinstance(facts, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(entry.get("config_name", "default")): entry for entry in entries}


def find_configured_splits(
    configurations: dict[str, dict[str, Any]], name: str | None, names: Sequence[str], label: str
) -> Splits | None:
    """Splits of one configuration; None if it says nothing of files.

    Raises:
        DataError: There is none of this name, or several and no name.
    """
    if name is None:
        chosen = [one for one, entry in configurations.items() if entry.get("default")] or ["default"]
        name = next(iter(configurations)) if len(configurations) == 1 else chosen[0]
    if name not in configurations:
        known = ", ".join(f"`{one}`" for one in configurations) or "none"
        raise DataError(
            f"{label}: there is no configuration `{name}`", f"Set `name`; its README lists: {known}."
        )
    entry = configurations[name]
    root = f"{entry['data_dir']}/" if entry.get("data_dir") else ""
    files = entry.get("data_files")
    if files is None:
        inside = [one for one in names if one.startswith(root)]
        return find_splits(inside, None, label) if root else None
    found: Splits = {}
    for split, patterns in _list_splits(files):
        found.setdefault(split, []).extend(match_names(names, [root + pattern for pattern in patterns]))
    return found


def _list_splits(files: Any) -> list[tuple[str, list[str]]]:
    """`data_files` of a README: patterns, or a list or mapping of splits."""
    if isinstance(files, dict):
        return [(str(split), _list_texts(paths)) for split, paths in files.items()]
    if isinstance(files, list) and all(isinstance(item, dict) for item in files):
        return [(str(item.get("split", "train")), _list_texts(item.get("path"))) for item in files]
    return [("train", _list_texts(files))]


def _list_texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
