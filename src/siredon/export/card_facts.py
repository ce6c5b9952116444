"""What a model card tells, gathered from the files that lie beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from siredon.export.origin import Origin, find_base, find_data, find_record, read_json
from siredon.train.publish import DRAFT

Kind = Literal["adapter", "model", "gguf", "onnx"]
#: Names of folders in `output_dir` that say what is in them, and not what it is called.
_PARTS = ("merged", "quantized", "safetensors", "gguf", "ollama", "onnx", "latest", "best")


@dataclass(frozen=True)
class DataSource:
    """A data set of the run.

    Args:
        origin: What it is called, and its licence.
        rows: Rows read; None where nobody counted.
        tokens: Tokens of all samples.
        learned: Those that are learned.
        fingerprint: Hash of its files or of the commit; may be empty.
    """

    origin: Origin
    rows: int | None = None
    tokens: int | None = None
    learned: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Facts:
    """All that a card is made of.

    Args:
        name: What the artifact is called.
        part: Which artifact of the run it is: `merged` and the like; empty for what the run wrote itself.
        kind: In which form.
        base: What was trained.
        data: The data sets.
        record: `run.json`; empty for what no run of Siredon made.
        logged: The lines of `metrics.jsonl`.
        merge: `merge.json`.
        quantize: `quantize.json`.
        scores: The results of `siredon evaluate`.
        marks: Those of `siredon lm-eval`.
        has_plot: `loss.png` lies beside.
        has_template: The tokenizer has a chat template.
        repo: `owner/name` of the repository that it is in, or is to be in; may be empty.
    """

    name: str
    part: str
    kind: Kind
    base: Origin
    data: tuple[DataSource, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    logged: Sequence[Mapping[str, float]] = ()
    merge: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()
    marks: Sequence[Mapping[str, Any]] = ()
    has_plot: bool = False
    has_template: bool = False
    repo: str = ""

    @property
    def given(self) -> Mapping[str, Any]:
        """The keys of the run."""
        return dict(self.record.get("given") or {})

    @property
    def finished(self) -> Mapping[str, Any]:
        """How the run ended; empty while it goes on."""
        return dict(self.record.get("finished") or {})

    def setting(self, section: str, name: str) -> Any:
        """What a key came to in the run; None where it is not known."""
        return ((self.record.get("config") or {}).get(section) or {}).get(name)

    @property
    def adapter(self) -> str:
        """`lora` and the like; empty for a full fine-tune."""
        return str(self.given.get("adapter") or "")

    @property
    def relation(self) -> str:
        """How it is related to its base, in a word of the hub."""
        if self.kind == "gguf" or self.quantize:
            return "quantized"
        if self.kind == "adapter":
            return "adapter"
        return "merge" if len(self.merge.get("adapters") or ()) > 1 else "finetune"


def gather_facts(place: Path, files: Path | None = None, repo: str = "") -> Facts:
    """Reads the folder of an artifact, and that of its run.

    Args:
        place: The folder, or a file in it that is an artifact by itself.
        files: Where its files are, if they are not in their place yet.
        repo: The repository; empty for `hub_model_id` of the run.
    """
    files = files or place
    folder = files.parent if files.is_file() else files
    home = place.parent if files.is_file() else place
    record = find_record(folder) or find_record(home)
    run = home
    if not (run / "metrics.jsonl").is_file() and _is_same_run(home.resolve().parent, record):
        run = home.resolve().parent
    part, name = _name(place, record)
    return Facts(
        name=name,
        part=part,
        kind=_find_kind(files),
        base=find_base(folder if (folder / "run.json").is_file() else home),
        data=tuple(_list_data(record)),
        record=record,
        logged=_read_lines(run / "metrics.jsonl"),
        merge=read_json(folder / "merge.json"),
        quantize=read_json(folder / "quantize.json"),
        scores=_list_results(read_json(folder / "evaluation" / "results.json")),
        marks=_list_results(read_json(_find_newest(folder / "lm_eval_results") / "results.json")),
        has_plot=(folder / "loss.png").is_file(),
        has_template=(folder / "chat_template.jinja").is_file(),
        repo=repo or str((record.get("given") or {}).get("hub_model_id") or ""),
    )


def _is_same_run(folder: Path, record: Mapping[str, Any]) -> bool:
    return bool(record) and read_json(folder / "run.json").get("started", "") == record.get("started")


def _name(place: Path, record: Mapping[str, Any]) -> tuple[str, str]:
    """Which part of the run, and what the whole is called."""
    place = place.resolve()
    repo = str((record.get("given") or {}).get("hub_model_id") or "").rpartition("/")[2]
    if place.is_file():
        return "", place.stem
    part = place.name.removeprefix(DRAFT)
    if part in _PARTS or part.startswith("checkpoint-"):
        return part, repo or place.parent.name
    return "", repo or part


def _find_kind(files: Path) -> Kind:
    if files.is_file():
        return "gguf" if files.suffix == ".gguf" else "onnx" if files.suffix == ".onnx" else "model"
    if (files / "adapter_config.json").is_file():
        return "adapter"
    if list(files.glob("*.onnx")):
        return "onnx"
    return "gguf" if list(files.glob("*.gguf")) and not list(files.glob("*.safetensors")) else "model"


def _list_data(record: Mapping[str, Any]) -> Iterator[DataSource]:
    """The data sets in the order of the file, with what became of their rows."""
    given, data = record.get("given") or {}, record.get("data") or {}
    started_in = Path(record.get("folder") or ".")
    named = given.get("pretraining_dataset") or []
    entries = [
        *(named if isinstance(named, list) else [named]),
        *(given.get("datasets") or []),
        *(given.get("test_datasets") or []),
    ]
    hashes = list((data.get("sources") or {}).values())
    counts = [count for count in data.get("counts") or [] if isinstance(count, dict)]
    for index, entry in enumerate(entries):
        entry = {"path": entry} if isinstance(entry, str) else entry
        path = str(entry.get("path", ""))
        found = next((count for count in counts if count.get("source") == path), {})
        if found:
            counts.remove(found)
        yield DataSource(
            find_data(path, entry.get("revision"), started_in),
            found.get("num_rows"),
            found.get("num_tokens"),
            found.get("num_targets"),
            str(hashes[index])[:16] if index < len(hashes) else "",
        )


def _read_lines(path: Path) -> list[dict[str, float]]:
    """The metrics; a line that is being written is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _list_results(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [result for result in report.get("results") or [] if isinstance(result, dict)]


def _find_newest(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*") if (path / "results.json").is_file())
    return found[-1] if found else folder
