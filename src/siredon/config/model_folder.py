"""Where a model lies on this machine, and what its own config says; no library is loaded and no network asked."""

from __future__ import annotations

import json
import os
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


def read_model_config(section: ModelSection) -> dict[str, Any] | None:
    """The model's own `config.json`, with `model_config` of the YAML over it; None if it is not on this machine."""
    try:
        folder = Path(locate_model(section.config_path))
        path = folder if folder.is_dir() else _hub_snapshot(section.config_path, section.revision or "main")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # not there, no JSON, the home of nobody
        return None
    return {**config, **section.overrides} if isinstance(config, dict) else None


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
