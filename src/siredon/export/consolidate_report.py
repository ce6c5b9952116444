"""What was put together: `consolidate.json`, and two lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from siredon.config.schema import Config
from siredon.export.consolidate_plan import Plan
from siredon.export.consolidate_write import Written
from siredon.export.dcp import Checkpoint
from siredon.log import note, show

REPORT = "consolidate.json"


def show_plan(checkpoint: Checkpoint, plan: Plan) -> None:
    """What was found, and what of it is not written."""
    files = checkpoint.list_files(plan.place.values())
    note(f"checkpoint: {checkpoint.folder}, {len(files)} file(s), {len(plan.place)} tensors")
    for part, count in plan.names.cleaned.items():
        note(f"`{part}` is taken off {count} names")
    if plan.left_out:
        note(f"{len(plan.left_out)} frozen weights of the base are left out: only the adapter is written")
    others = plan.names.others + checkpoint.num_others
    if others:
        note(f"{others} other values in it, such as those of the optimizer, are not read")


def write_report(config: Config, checkpoint: Checkpoint, plan: Plan, written: Written, folder: Path) -> None:
    """Writes what is known of the folder: `consolidate.json`, with the hash of every tensor."""
    facts = {
        "checkpoint": str(checkpoint.folder),
        "checkpoint_files": checkpoint.list_files(plan.place.values()),
        "base_model": config.model.base_model,
        "kind": "adapter" if plan.is_adapter else "model",
        "stored": _name_formats(written.stored),
        "written": _name_formats(written.formats),
        "names_cleaned": dict(plan.names.cleaned),
        "tied": dict(written.tied),
        "left_out": len(plan.left_out),
        "tensors": {
            name: {"shape": list(fact.shape), "dtype": show_dtype(fact.dtype), "sha256": fact.sha256}
            for name, fact in sorted(written.facts.items())
        },
    }
    (folder / REPORT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def show_result(written: Written, num_bytes: int) -> None:
    """What was done."""

    def count(formats: Mapping[torch.dtype, int]) -> str:
        return " and ".join(f"{number} in {name}" for name, number in _name_formats(formats).items())

    same = f", {len(written.tied)} of them the same as another" if written.tied else ""
    show(f"read: {count(written.stored)}{same}")
    show(
        f"written: {count(written.formats)}, {num_bytes:,} bytes; "
        "read back, the bytes of each are those of the checkpoint"
    )


def _name_formats(formats: Mapping[torch.dtype, int]) -> dict[str, int]:
    return {show_dtype(dtype): count for dtype, count in formats.items()}


def show_dtype(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")
