"""run.json: everything that made a run, so that it can be told and repeated."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siredon.config.diagnostics import COMMAND_LINE
from siredon.config.document import Source
from siredon.config.resume_kinds import collect_compared
from siredon.config.schema import Config
from siredon.data.prepare import Prepared
from siredon.distributed.ranks import num_ranks
from siredon.log import is_main_process
from siredon.redaction import redact_command, redact_line, redact_values
from siredon.train.arguments import count_steps
from siredon.train.checkpoint import count_steps_done
from siredon.train.compare import compare_facts
from siredon.train.facts import Run, describe_versions, gather_facts, list_hidden
from siredon.train.fingerprint import fingerprint_reference, fingerprint_weights
from siredon.train.output import prepare_output
from siredon.train.publish import write_whole
from siredon.train.resume_rules import Identity
from siredon.train.space import explain_disk


def identify_run(config: Config, prepared: Prepared, formats: str = "", device: str = "") -> Identity:
    """What a checkpoint of this run keeps, and what a checkpoint must agree with for this run to go on from it.

    Args:
        config: The resolved config.
        prepared: The data.
        formats: Number formats, for people.
        device: What computes, for people.
    """
    batch = config.batch
    references = fingerprint_reference(config.reference_to_load, config.reference).values()
    return Identity(
        prepared.fingerprint,
        num_ranks(),
        batch.micro_batch_size,
        batch.gradient_accumulation_steps,
        batch.seed,
        train_data=prepared.train_fingerprint,
        model="; ".join(fingerprint_weights(config.model, config.adapter).values()),
        reference="; ".join(references),
        num_steps=count_steps(config, prepared.num_packs).num_steps,
        num_packs=prepared.num_packs or 0,
        formats=formats,
        device=device,
        versions=describe_versions(),
        keys=collect_compared(config),
    )


def write_record(run: Run, *, num_steps: int, resume: Path | None, origin: Path | str | None) -> Path:
    """Writes `run.json` into `output_dir`, which is made, or made ready for a fresh run.

    Args:
        run: What the run is made of.
        num_steps: Optimizer steps of the whole run.
        resume: The checkpoint that it goes on from.
        origin: Where it begins, for people; nothing for a run that is fresh.
    """
    config = run.config
    folder = config.checkpoint.output_folder
    path = folder / "run.json"
    if not is_main_process():
        return path
    facts = gather_facts(run)
    resumes = _describe_resumes(path, resume, facts) if resume else []
    prepare_output(folder, resumes=origin is not None)
    facts["data"]["counts"] = [counts.to_json() for counts in run.prepared.counts]
    record = {
        "siredon": facts.pop("siredon"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact_command(sys.argv),
        "folder": str(Path.cwd()),
        "texts": [_describe_text(source) for source in config.origin.sources],
        "config": config.model_dump(mode="json", by_alias=True),
        "seed": config.batch.seed,
        **facts,
        "hidden": list_hidden(config),
        "num_steps": num_steps,
        "resumed_from": origin,
        "resumes": resumes,
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


def _describe_text(source: Source) -> dict[str, str]:
    """A text that the config was read from, without secrets."""
    if source.name == COMMAND_LINE:
        return {"name": source.name, "text": shlex.join(redact_command(shlex.split(source.text)))}
    return {"name": source.name, "text": "\n".join(map(redact_line, source.text.splitlines()))}


def _describe_resumes(path: Path, resume: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """At which steps the run went on, and what was no longer as it had been."""
    earlier = path if path.is_file() else resume.parent / "run.json"
    try:
        record = json.loads(earlier.read_text())
    except (OSError, ValueError):
        return [{"checkpoint": str(resume), "step": count_steps_done(resume), "changed": []}]
    changed = [asdict(difference) for difference in compare_facts(record, facts)] if "given" in record else []
    turn = {"checkpoint": str(resume), "step": count_steps_done(resume), "changed": changed}
    return [*record.get("resumes", ()), turn]
