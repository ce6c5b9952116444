"""The shelves whose names the checks know too; each is named once."""

from __future__ import annotations

from siredon.registry import Shelf

FORMATS = Shelf("siredon.data.formats", "FORMAT", "datasets.type")
TEMPLATES = Shelf("siredon.data.templates", "TEMPLATE", "chat_template")
