"""Where an artifact comes from, in words that others can use: the base on the hub, data sets, licences.

What is known stands in the record of the run, in the settings of an adapter, and in the cards that lie beside models
and data sets on this machine.  Nothing is asked of the network, and nothing is guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from yaml import YAMLError

from siredon.config.artifact import RECORD
from siredon.config.model_folder import cache_folder, find_folder, find_place
from siredon.redaction import redact, strip_addresses

UNKNOWN = "unknown"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SNAPSHOT = re.compile(r"(?:models|datasets)--([\w.-]+?)--([\w.-]+)$")
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zst", ".zip")


@dataclass(frozen=True)
class Origin:
    """A model or a data set that something is made of.

    Args:
        name: For people: its id on the hub, its address, or the last name of its folder.
        hub_id: `owner/name`; empty if it is not known to be on the hub.
        license: What its own card says; `unknown` without one.
        license_link: Where the licence can be read; may be empty.
    """

    name: str
    hub_id: str = ""
    license: str = UNKNOWN
    license_link: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """A report as it is; empty where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_record(folder: Path) -> dict[str, Any]:
    """The record of the run that an artifact is of; of a checkpoint it lies one folder above."""
    for place in (folder, folder.resolve().parent):
        if record := read_json(place / RECORD):
            return record
    return {}


def find_base(folder: Path) -> Origin:
    """The base of an adapter or model, and its licence."""
    record = find_record(folder)
    given = record.get("given", {})
    name = given.get("base_model") or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        return Origin("")
    name = find_place(str(name)).folder if str(name).lower().endswith(".gguf") else str(name)
    hub_id = find_hub_id(name, Path(record.get("folder", ".")))
    place = find_folder(name, str(given.get("model_revision") or "main"))
    card = place / "README.md"
    if hub_id and not card.is_file():
        card = find_folder(hub_id, "main") / "README.md"
    return Origin(hub_id or show_name(name), hub_id, *read_license(card))


def find_data(path: str, revision: str | None, started_in: Path) -> Origin:
    """A data set that `datasets` names."""
    hub_id = "" if path.lower().endswith(_DATA_SUFFIXES) else find_hub_id(path, started_in)
    if not hub_id:
        card = started_in / path / "README.md" if "://" not in path else Path()
        return Origin(show_name(path), "", *read_license(card))
    try:
        cached = try_to_load_from_cache(hub_id, "README.md", repo_type="dataset", revision=revision or "main")
    except HFValidationError:
        cached = None
    return Origin(hub_id, hub_id, *read_license(Path(cached) if isinstance(cached, str) else Path()))


def find_hub_id(name: str, started_in: Path) -> str:
    """`owner/name` of something that is on the hub, as far as its name or its place in a cache tells; else empty."""
    path = started_in / Path(name).expanduser() if "://" not in name else Path(name)
    if _HUB_ID.fullmatch(name) and not name.startswith(".") and not path.exists():
        return name
    models = cache_folder() / "models"
    if path.is_relative_to(models) and len(path.relative_to(models).parts) == 2:
        return path.relative_to(models).as_posix()
    owners = [_SNAPSHOT.search(part) for part in path.parts]
    return next((f"{found[1]}/{found[2]}" for found in owners if found), "")


def show_name(name: str) -> str:
    """A place for people elsewhere: an address without what is secret in it; of a path its last name."""
    if "://" in name and not name.startswith("file:"):
        return redact(strip_addresses(name))
    return Path(name.replace("\\", "/").rstrip("/")).name or name


def read_license(card: Path) -> tuple[str, str]:
    """What a card says of the licence, and where to read it; `unknown` without a card or a word about it."""
    if not card.is_file():
        return UNKNOWN, ""
    try:
        facts = metadata_load(card) or {}
    except (OSError, ValueError, YAMLError):
        return UNKNOWN, ""
    found = facts.get("license_name") or facts.get("license") or UNKNOWN
    names = found if isinstance(found, list) else [found]
    return ", ".join(map(str, names)), str(facts.get("license_link") or "")
