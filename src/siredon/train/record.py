"""run.json: everything that made a run, so that it can be told and repeated."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from siredon import __version__
from siredon.config.resume_kinds import collect_compared
from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.distributed.ranks import num_ranks
from siredon.hardware import Hardware
from siredon.log import is_main_process
from siredon.model.fingerprint import fingerprint_model
from siredon.redaction import redact_command, redact_values
from siredon.train.arguments import count_steps
from siredon.train.output import prepare_output
from siredon.train.publish import write_whole
from siredon.train.resume_rules import Identity
from siredon.train.space import explain_disk

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")


def identify_run(config: Config, prepared: Prepared, formats: str = "", device: str = "") -> Identity:
    """What a checkpoint of this run keeps, and what a checkpoint must agree with for this run to go on from it.

    Args:
        config: The resolved config.
        prepared: The data.
        formats: Number formats, for people.
        device: What computes, for people.
    """
    batch = config.batch
    return Identity(
        prepared.fingerprint,
        num_ranks(),
        batch.micro_batch_size,
        batch.gradient_accumulation_steps,
        batch.seed,
        train_data=prepared.train_fingerprint,
        model=fingerprint_model(config.model),
        num_steps=count_steps(config, prepared.num_packs).num_steps,
        num_packs=prepared.num_packs or 0,
        formats=formats,
        device=device,
        versions=_versions(),
        keys=collect_compared(config),
    )


def write_record(config: Config, prepared: Prepared, hardware: Hardware, **facts: Any) -> Path:
    """Writes `run.json` into `output_dir`, which is made, or made ready for a fresh run.

    Args:
        config: The resolved config.
        prepared: The data, for its fingerprint and counts.
        hardware: The machine.
        facts: What else to keep, as JSON values.
    """
    folder = config.checkpoint.output_folder
    path = folder / "run.json"
    if not is_main_process():
        return path
    prepare_output(folder, resumes=bool(facts.get("resumed_from")))
    record = {
        "siredon": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact_command(sys.argv),
        "config": config.model_dump(mode="json", by_alias=True),
        "seed": config.batch.seed,
        "data": {
            "fingerprint": prepared.fingerprint,
            "counts": [counts.to_json() for counts in prepared.counts],
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": asdict(hardware),
        "git_commit": _git_commit(),
        **facts,
    }
    _write(path, record)
    return path


def extend_record(path: Path, **facts: Any) -> None:
    """Adds what is known at the end of a run."""
    _write(path, {**json.loads(path.read_text()), **facts})


def _write(path: Path, record: dict[str, Any]) -> None:
    """Writes the record, without the secrets that stand in it."""
    with explain_disk(path):
        write_whole(path, json.dumps(redact_values(record), indent=2, default=str) + "\n")


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower() for distribution in metadata.distributions() if distribution.name}
    return {name: metadata.version(name) for name in _PACKAGES if name in installed}


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  the user's git, wherever it is
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
