"""A run made again from its `run.json`: the config rebuilt, the machine compared, the two results compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siredon.config.diagnostics import num_errors, show_report
from siredon.config.document import write_yaml
from siredon.config.layers import read_layers
from siredon.config.load import check_document
from siredon.config.schema import Config
from siredon.errors import CheckpointError, ConfigError, SiredonError, TrainingError
from siredon.hardware import Hardware
from siredon.log import is_main_process, note, show
from siredon.redaction import MASK, redact_values
from siredon.train.compare import (
    FREE,
    Difference,
    compare_facts,
    find_first_difference,
    find_other_weights,
    show_differences,
)
from siredon.train.facts import Run, describe_data, describe_machine, walk_texts
from siredon.train.fingerprint import ABSENT, hash_result


@dataclass(frozen=True)
class Repeat:
    """What `reproduce` is asked.

    Args:
        run: The folder of the run.
        output: The folder for its repetition.
        only_checks: Compare, and train nothing.
        force: Train in spite of differences.
    """

    run: Path
    output: Path
    only_checks: bool
    force: bool


def read_record(wanted: Repeat) -> dict[str, Any]:
    """`run.json` of a run that can be made again.

    Raises:
        CheckpointError: There is none, it is of an older Siredon, or the run has not ended.
    """
    path = wanted.run / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        fix = "Name the `output_dir` of a run."
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", fix) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not whole: {error}", "Name the folder of another run.") from error
    if "given" not in record:
        raise CheckpointError(
            f"{path} does not say enough: it is of Siredon {record.get('siredon', 'of unknown version')}",
            "Train with its configuration anew; the record of that run will do.",
        )
    if "weights" not in record.get("finished", {}) and not wanted.only_checks:
        raise CheckpointError(
            f"{path} is of a run that has not ended: there is nothing to compare with",
            "Let it go on to its end first, with `auto_resume_from_checkpoints: true`.",
        )
    return record


@contextmanager
def folder_of(record: dict[str, Any]) -> Iterator[None]:
    """Inside, relative paths are from where the run was started, if that folder is on this machine."""
    folder = Path(record["folder"])
    if not folder.is_dir():
        note(f"{folder}, where the run was started, is not here: relative paths are from {Path.cwd()}")
        yield
        return
    with chdir(folder):
        yield


def rebuild_config(record: dict[str, Any], wanted: Repeat) -> Config:
    """The config of the run, as one that starts at its beginning and writes elsewhere.

    Raises:
        CheckpointError: A value is not in the record, as it was a secret.
        ConfigError: This Siredon does not take what that one took.
    """
    name = str(wanted.run / "run.json")
    given = {key: value for key, value in record["given"].items() if key not in FREE}
    hidden = [name for name, text in walk_texts(given) if MASK in text and name in record["hidden"]]
    if hidden:
        raise CheckpointError(
            f"{name}: {', '.join(hidden)} had a secret, which no record holds",
            f"Write it into `given` of that file in the place of {MASK}, and take it out again afterwards.",
        )
    given["output_dir"] = str(wanted.output)
    checked = check_document(read_layers(name, (), write_yaml(given)))
    if checked.config is None:
        raise ConfigError(show_report(name, checked.diagnostics), num_errors(checked.diagnostics))
    return checked.config


def describe_now(config: Config, hardware: Hardware) -> dict[str, Any]:
    """What the run would be made of on this machine; what is gone stands there as the error that it would be."""
    from siredon.data.prepare_run import prepare_run
    from siredon.model.tokenizer import load_tokenizer

    facts = describe_machine(config, hardware)
    try:
        tokenizer = load_tokenizer(config.tokenizer, config.model)
        prepared = prepare_run(config, tokenizer)
    except SiredonError as error:
        return {**facts, "data": {"rows": error.message}}
    return {**facts, "data": describe_data(Run(config, tokenizer, prepared, hardware))}


def find_differences(record: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What is not the same here, and what was not the same from the beginning of the run to its end."""
    then = {**record, "given": redact_values(record["given"])}  # A secret may have been put back into it
    if "rows" in now["data"]:  # That it is gone explains all other facts of the data
        then |= {"data": {"rows": "read"}}
    found = compare_facts(then, now)
    for turn in record.get("resumes", ()):
        for change in turn["changed"]:
            what = Difference(**change)
            if what.weight != "none":
                name = f"{what.name}, from step {turn['step']} on"
                found.append(Difference(name, what.then, what.now, what.weight))
    return found


def check_same(record: dict[str, Any], now: dict[str, Any], wanted: Repeat) -> None:
    """Shows what differs.

    Raises:
        TrainingError: Something that the result may hang on does, and it is not to be done in spite of that.
    """
    differences = find_differences(record, now)
    if ABSENT in now["weights"].values():
        note("weights that are not on this machine yet are not compared")
        differences = [row for row in differences if row.now != ABSENT]
    if not differences:
        show("the same: configuration, data, weights, programs, machine, environment")
        return
    text = show_differences(differences)
    serious = [row for row in differences if row.weight != "none"]
    if serious and not (wanted.force and not wanted.only_checks):
        raise TrainingError(
            f"{wanted.run}: {len(serious)} thing{'s' if len(serious) > 1 else ''} the result may hang on "
            f"{'are' if len(serious) > 1 else 'is'} not the same\n{text}",
            "Set these back; or run in spite of them with `--force`, and see in what the results differ.",
        )
    show(text)


def compare_results(record: dict[str, Any], wanted: Repeat) -> bool:
    """Says whether weights and metrics came out the same, or where they part; False if they do."""
    if not is_main_process():
        return True
    then, now = record["finished"]["weights"], hash_result(wanted.output)
    other = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    step = find_first_difference(wanted.run / "metrics.jsonl", wanted.output / "metrics.jsonl")
    if not other and not step:
        show(f"identical to the bit: {', '.join(now)}, and every metric")
        return True
    begun = json.loads((wanted.output / "run.json").read_text())["weights"]
    other_start = compare_facts({"weights": record["weights"]}, {"weights": begun})
    if other_start:  # Of the hub, and not on this machine when the rest was compared
        show(show_differences(other_start))
    show(f"metrics: {f'the first that differs is at {step}' if step else 'identical'}")
    for name in now:
        show(f"{name}: {_tell(wanted, name, then.get(name)) if name in other else 'identical to the bit'}")
    for name in set(then) - set(now):
        show(f"{name}: not written this time")
    return False


def _tell(wanted: Repeat, name: str, digest: str | None) -> str:
    """In what a file differs from the one of the run, if that is still there."""
    old = wanted.run / name
    if digest is None:
        return "the run had no such file"
    if not old.is_file() or hash_result(wanted.run).get(name) != digest:
        return "differs; how much is not known, as the file of the run is not there any more"
    return find_other_weights(old, wanted.output / name)
