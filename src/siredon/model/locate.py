"""A model's name -> where it lies.

A name is a local folder, or else a hub id; a hub id for which the user cache holds a folder
(`~/.cache/siredon/models/<id>`, made for instance by `examples/smollm2/fetch_model.py`) is that folder.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user cache: `SIREDON_CACHE`, or `siredon` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    own = os.environ.get("SIREDON_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "siredon"


def locate_model(name: str) -> str:
    """A local folder for `name` if there is one, else `name` itself: a hub id."""
    local = Path(name).expanduser()
    if local.exists():
        return str(local)
    cached = cache_folder() / "models" / name
    if (cached / "config.json").is_file():
        return str(cached)
    return name
