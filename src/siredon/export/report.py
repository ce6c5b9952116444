"""`merge.json`: what was merged into what, how, and how far the result is from base and adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from siredon.config.schema import Config
from siredon.export.merge_stage import Change
from siredon.export.verify import Verified

REPORT = "merge.json"


def write_report(
    config: Config,
    changes: Sequence[Change],
    method: str,
    rounding: str,
    verified: Verified | None,
    folder: Path,
) -> None:
    """Writes what a model card tells of the merge.

    Args:
        config: The whole config of the run.
        changes: The adapters.
        method: `memory_efficient` or `legacy`.
        rounding: How the base differs from that of training, for people; empty if it does not.
        verified: What the check found; None where it was left out.
        folder: The merged model.
    """
    rounded = config.quantization.ways[0] if config.quantization.ways else None
    report = {
        "base_model": config.model.base_model,
        "adapters": [{"folder": str(change.folder), "weight": change.weight} for change in changes],
        "adapters_below": list(config.adapter.lora_frozen_dirs),
        "merge_method": method,
        "base_rounded_by": rounded,
        "base_rounded_otherwise": rounding or None,
        "merge_base": config.quantization.merge_base if rounded else "as stored",
        "verified": verified.to_json() if verified else None,
    }
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
