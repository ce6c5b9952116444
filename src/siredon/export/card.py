"""`README.md` of an artifact: what the hub shows of it, written from the records of the run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard, ModelCardData

from siredon.export.card_facts import Facts, gather_facts
from siredon.export.card_text import write_sections
from siredon.export.contents import CARD
from siredon.log import note, warn
from siredon.redaction import redact
from siredon.train.publish import write_whole

#: Last line of a card that nobody has changed: the hash of all above it.
_MARK = re.compile(r"\n<!-- siredon card ([0-9a-f]{16}) -->\s*$")
#: PEFT leaves a form to be filled in.
_FORM = "# Model Card for Model ID"
_LIBRARY = {"adapter": "peft", "model": "transformers", "gguf": "gguf", "onnx": "onnx"}
State = Literal["missing", "ours", "edited"]


def build_card(place: Path, files: Path | None = None, repo: str = "") -> str:
    """The card of an artifact.

    Args:
        place: Its folder, or the file that it is.
        files: Where its files are, if they are not in their place yet.
        repo: The repository that it is for; empty for `hub_model_id` of the run.
    """
    facts = gather_facts(place, files, repo)
    card = ModelCard(f"---\n{_describe(facts).to_yaml()}\n---\n\n{write_sections(facts)}")
    text = _hide_folders(redact(str(card)), facts)
    return f"{text.rstrip()}\n\n<!-- siredon card {_hash(text.rstrip())} -->\n"


def write_card(place: Path, files: Path | None = None, *, force: bool = False) -> Path | None:
    """Writes the card into the folder of an artifact, unless somebody has changed the one that is there.

    Args:
        place: The folder.
        files: Where its files are, if they are not in their place yet; a changed card of before is copied there.
        force: Write over a changed card.

    Returns:
        The card; None where a changed one was left.
    """
    old, path = place / CARD, (files or place) / CARD
    if not force and find_state(old) == "edited":
        if files is not None:
            path.write_bytes(old.read_bytes())
        note(
            f"{old} was changed by hand, and is left as it is (`siredon card {place} --force` writes it anew)"
        )
        return None
    write_whole(path, build_card(place, files))
    return path


def try_card(place: Path, files: Path | None = None) -> None:
    """The same at the end of another verb, which has done its work already: a failure is a warning."""
    try:
        write_card(place, files)
    except (OSError, ValueError, TypeError, KeyError) as error:
        warn(f"no card could be written for {place}: {error}")


def read_card(place: Path, repo: str = "") -> str:
    """The card to publish: the one that was changed by hand, or else one of what is known now."""
    folder = place.parent if place.is_file() else place
    path = folder / CARD
    return path.read_text(encoding="utf-8") if find_state(path) == "edited" else build_card(place, repo=repo)


def find_state(path: Path) -> State:
    """Whether a card was changed since it was written; one that somebody else wrote counts as changed."""
    if not path.is_file():
        return "missing"
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(text)
    if mark is None:
        return "ours" if _FORM in text else "edited"
    return "ours" if _hash(text[: mark.start()].rstrip()) == mark[1] else "edited"


def _describe(facts: Facts) -> ModelCardData:
    """What the hub reads: only ids that are there, and no licence, which is for the user to choose."""
    tags = ["siredon", *([facts.adapter] if facts.adapter else [])]
    ids = dict.fromkeys(source.origin.hub_id for source in facts.data if source.origin.hub_id)
    data = ModelCardData(
        base_model=facts.base.hub_id or None,
        library_name=_LIBRARY[facts.kind],
        pipeline_tag="text-generation",
        datasets=list(ids) or None,
        tags=tags,
    )
    if facts.base.hub_id:
        data["base_model_relation"] = facts.relation
    return data


def _hide_folders(text: str, facts: Facts) -> str:
    """Text without the folders of this machine, wherever a text of the user's may hold one."""
    places = {str(Path.home()), str(Path.cwd()), str(facts.record.get("folder") or "")}
    for place in sorted((place for place in places if len(place) > 2), key=len, reverse=True):
        text = text.replace(f"{place.rstrip('/')}/", "")
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
