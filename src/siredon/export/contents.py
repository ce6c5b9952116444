"""The files that belong to an artifact, out of all that lies in its folder; and whether one of them holds a secret."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.errors import CheckpointError, HubError
from siredon.export.origin import find_base
from siredon.redaction import find_secrets

ADAPTER = "adapter_config.json"
CARD = "README.md"
#: What belongs to a model beside its weights; a run's folder holds much else.
REST = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)
_WEIGHTS = (
    *("model*.safetensors", "model*.safetensors.index.json", "adapter_model*.safetensors", ADAPTER),
    *("*.onnx", "*.onnx.data", "*.onnx_data", "Modelfile"),
)
_PAPERS = ("loss.png", "LICENSE*", "NOTICE*", "additional_chat_templates/*.jinja", "*.py")
#: Words of a tokenizer: any of them may stand before a colon.
_WORDS = (*REST[2:9], "chat_template.json")
_BINARY = (".safetensors", ".gguf", ".onnx", ".data", ".onnx_data", ".png", ".pt", ".pth", ".bin", ".model")
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A file that is sent.

    Args:
        name: Its path in the repository.
        content: Where it is, or its bytes.
    """

    name: str
    content: Path | bytes

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def is_stored_apart(self) -> bool:
        """Whether the hub keeps it beside git, as large files are kept."""
        return self.name.endswith((*_BINARY, "tokenizer.json"))

    def read(self) -> bytes:
        """Its bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Contents:
    """An artifact.

    Args:
        items: What belongs to it, by name; without a card.
        left: What lies in its folder and does not.
        warnings: What those who get it will miss.
    """

    items: tuple[Item, ...]
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def list_contents(folder: Path, changed: Path | None = None) -> Contents:
    """What belongs to the adapter or model in a folder.

    The base that an adapter names is written as others find it: by its id on the hub, or else by its last name.

    Args:
        folder: The folder.
        changed: Another one, whose files take the place of those with the same names.

    Raises:
        CheckpointError: There are no weights in it.
    """
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    is_gguf = not any(fnmatch.fnmatch(name, "*.safetensors") for name in names)
    patterns = (*_WEIGHTS, *REST, *_PAPERS, *(["*.gguf"] if is_gguf else []))
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path for path in paths if not path.name.startswith(".")}
    if not any(Path(name).suffix in (".safetensors", ".gguf", ".onnx") for name in found):
        raise CheckpointError(
            f"{folder} holds neither an adapter nor a model",
            "Train, merge or export first, or name another folder.",
        )
    items, warnings = [], []
    for name, path in sorted(found.items()):
        other = (changed or folder) / name
        item = Item(name, other if other.is_file() else path)
        if name == ADAPTER:
            item, missing = _name_base(item, folder)
            warnings += missing
        items.append(item)
    left = tuple(name for name in names if name != CARD and not any(n.split("/")[0] == name for n in found))
    return Contents(tuple(items), left, tuple(warnings))


def list_files(folder: Path, prefix: str) -> Iterator[Item]:
    """Every file of a folder, as it is, below a name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield Item(f"{prefix}/{path.relative_to(folder).as_posix()}", path)


def check_secrets(items: Iterable[Item]) -> None:
    """Passes where no text among the files holds a secret.

    Raises:
        HubError: One does; file and line are named, and never the secret.
    """
    places = []
    for item in items:
        if item.name.endswith(_BINARY):
            continue
        text = item.read().decode("utf-8", "replace")
        by_name = item.name.rpartition("/")[2] not in _WORDS
        places += [f"{_show_place(item)}:{line}" for line in find_secrets(text, by_name=by_name)]
    if places:
        more = f", and {len(places) - _MOST_SHOWN} more" if len(places) > _MOST_SHOWN else ""
        raise HubError(
            f"nothing was sent: what looks like a secret stands in {', '.join(places[:_MOST_SHOWN])}{more}",
            "Take it out of the file, and let nobody use it any more if others may have seen it.",
        )


def _show_place(item: Item) -> str:
    return item.name if isinstance(item.content, bytes) else str(item.content)


def _name_base(item: Item, folder: Path) -> tuple[Item, list[str]]:
    """The settings of an adapter with a base that others find, and what to say if they do not."""
    settings: dict[str, Any] = json.loads(item.read())
    base = find_base(folder)
    name = base.hub_id or base.name
    warnings = []
    if not base.hub_id:
        warnings.append(
            f"{ADAPTER} can name its base only as `{name}`, a folder of this machine: others must name the base "
            "themselves; with the hub id in `base_model` they need not"
        )
    if settings.get("base_model_name_or_path") == name:
        return item, warnings
    settings["base_model_name_or_path"] = name
    return Item(item.name, (json.dumps(settings, indent=2) + "\n").encode()), warnings
