"""Where a model lies on this machine, and what its own config says; no library is loaded and no network asked."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.config.sections.model import ModelSection


def cache_folder() -> Path:
    """The user cache: `SIREDON_CACHE`, or `siredon` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    own = os.environ.get("SIREDON_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "siredon"


def locate_model(name: str) -> str:
    """A local folder for `name` if there is one, else `name` itself: a hub id.

    A hub id for which the user cache holds a folder (`~/.cache/siredon/models/<id>`, made for instance by
    `examples/smollm2/fetch_model.py`) is that folder.
    """
    local = Path(name).expanduser()
    if local.exists():
        return str(local)
    cached = cache_folder() / "models" / name
    if (cached / "config.json").is_file():
        return str(cached)
    return name


@dataclass(frozen=True)
class Place:
    """Where a model is.

    Args:
        folder: A folder, or a hub id.
        gguf_file: The file in it that holds weights, config and tokenizer; None for a folder of safetensors.
    """

    folder: str
    gguf_file: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What `from_pretrained` has to know beside the folder."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def find_place(name: str) -> Place:
    """Where `name` is: a folder or hub id as `locate_model` finds it, or a GGUF file in one.

    A GGUF file is named by its path, on this machine or behind a hub id (`owner/name/file.gguf`).  A folder without
    `config.json` in which there is a single one means that file.
    """
    local = Path(name).expanduser()
    if name.lower().endswith(".gguf"):
        if not local.exists() and name.count("/") >= 2 and not name.startswith((".", "/", "~")):
            owner, model, file = name.split("/", 2)
            return Place(f"{owner}/{model}", file)
        return Place(str(local.parent), local.name)
    files = list_ggufs(local)
    if len(files) == 1:
        return Place(str(local), files[0])
    return Place(locate_model(name))


def list_ggufs(folder: Path) -> list[str]:
    """The GGUF files of a folder that has no `config.json`: it is a model by them alone."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError):  # no folder, or none that can be read
        return []
    return [] if "config.json" in names else [name for name in names if name.lower().endswith(".gguf")]


#: The way out where weights are in pickles only.
PICKLE_FIX = (
    "A pickle can run code. Convert it once, with `AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False)"
    ".save_pretrained(other)`, and name the other folder; or set `allow_pickle: true`, which reads tensors only."
)


def list_pickles(folder: Path) -> list[str]:
    """The weights of a folder, if they are in pickles and not in safetensors too."""
    try:
        names = {path.name for path in folder.iterdir()}
    except (OSError, ValueError):  # no folder, or none that can be read
        return []
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return []
    return sorted(name for name in names if name.startswith("pytorch_model") and name.endswith(".bin"))


def read_model_config(section: ModelSection) -> dict[str, Any] | None:
    """The model's own `config.json`, with `model_config` of the YAML over it; None if it is not on this machine."""
    try:
        path = find_folder(section.config_path, section.revision or "main")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # not there, no JSON, the home of nobody
        return None
    return {**config, **section.overrides} if isinstance(config, dict) else None


def find_folder(name: str, revision: str) -> Path:
    """The folder of a model on this machine, also in the cache of huggingface_hub; it may not be there."""
    folder = Path(locate_model(name))
    return folder if folder.is_dir() else _hub_snapshot(name, revision)


def _hub_snapshot(name: str, revision: str) -> Path:
    """The folder of a model in the cache of huggingface_hub: a branch is a file that holds its commit."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    folder = hub / f"models--{name.replace('/', '--')}"
    branch = folder / "refs" / revision
    commit = branch.read_text(encoding="utf-8").strip() if branch.is_file() else revision
    return folder / "snapshots" / commit
