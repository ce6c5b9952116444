"""An inspection -> one page that needs nothing else: no server, no network.

Data is untrusted.  It stands in the page as JSON without any character that means something to HTML, the script
only ever puts it into text nodes, and the page forbids every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from siredon.data.inspect import Inspection, SeenRow, SeenSample

_TEMPLATE = Path(__file__).with_name("inspect_page.html")
_SCRIPT, _SCRIPT_END = "<script>", "</script>"
#: Learned, and special, as bits of one digit a token.
_LEARNED, _SPECIAL = 1, 2


def build_page(inspection: Inspection) -> str:
    """The page, as text."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = template.partition(_SCRIPT)[2].partition(_SCRIPT_END)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template.replace("SCRIPT_HASH", f"sha256-{digest}", 1)
    before, after = page.split("DATA_AS_JSON", 1)
    return before + _as_data(_pack_page(inspection)) + after


def _as_data(value: Any) -> str:
    """JSON that may stand inside of HTML, whatever is in it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _pack_page(inspection: Inspection) -> dict[str, Any]:
    """What the script reads: each piece of text once, and a number for each place where it stands."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    roles: dict[str, int] = {}
    rows = [_pack_row(row, numbers, roles) for row in inspection.rows]
    return {
        "sources": [asdict(source) for source in inspection.sources],
        "sides": [asdict(side) for side in inspection.sides],
        "roles": [asdict(role) for role in inspection.roles],
        "warnings": inspection.warnings,
        "problem": inspection.problem,
        "sequence_len": inspection.sequence_len,
        "pieces": list(numbers),
        "role_names": list(roles),
        "rows": rows,
    }


def _pack_row(
    row: SeenRow, numbers: dict[tuple[str, tuple[int, ...]], int], roles: dict[str, int]
) -> dict[str, Any]:
    def pack_sample(sample: SeenSample) -> dict[str, Any]:
        pieces = sample.pieces
        turns: list[list[int]] = []  # Role and number of pieces, run by run
        for piece in pieces:
            role = roles.setdefault(piece.role, len(roles))
            if turns and turns[-1][0] == role:
                turns[-1][1] += 1
            else:
                turns.append([role, 1])
        return {
            "use": sample.use,
            "name": sample.name,
            "tokens": sample.num_tokens,
            "targets": sample.num_targets,
            "pieces": [numbers.setdefault((piece.text, piece.ids), len(numbers)) for piece in pieces],
            "kinds": "".join(str(_LEARNED * piece.learned + _SPECIAL * piece.special) for piece in pieces),
            "turns": turns,
        }

    return {
        "source": row.source,
        "number": row.number,
        "place": row.place,
        "tokens": row.num_tokens,
        "cut": row.is_cut,
        "reason": row.reason,
        "num_samples": row.num_samples,
        "samples": [pack_sample(sample) for sample in row.samples],
    }
