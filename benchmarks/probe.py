"""A batch that cannot fit, as `siredon train` refuses it, and each of the changes that it names, as it then runs.

    python benchmarks/probe.py [--shape 8b|tiny] [--rows 4] [--length 4096]

LoRA on a Llama 3 of 8 B random weights, written by `benchmarks/qlora.py`.  Each run is a process of its own, as a user
starts it.  On a GPU the first must end with status 1 and name at least one change, and each change must take its
steps within the figure that was named, give or take 5 %.  Results: benchmarks/results/, as JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from qlora import LORA, ROOT, SHAPES, write_model, write_tokenizer

#: A change of the report: its keys, its figure in GiB, and whether that was measured.
_CHANGE = re.compile(r"^\s+(\w+: .+?)  # ([\d.]+) GiB, (measured|estimated)", re.MULTILINE)


def write_rows(path: Path, length: int) -> None:
    """Rows of the whole length, of three quarters of it, a half and so on, of which each `sequence_len` has some."""
    dice = random.Random(0)
    lengths = [int(length * share) - 1 for share in (1, 0.75, 0.5, 0.25, 0.125) for _ in range(16)]
    texts = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz     ", k=count)) for count in lengths]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")


def run(options: argparse.Namespace, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A run; its status, what it said, and its peak."""
    path, output = options.work / f"probe-{name}.yml", options.work / f"out-probe-{name}"
    values = {
        "base_model": str(options.work / f"model-{options.shape}"),
        "datasets": [{"path": str(options.work / "probe-rows.jsonl"), "type": "completion"}],
        "dataset_prepared_path": str(options.work / "prepared"),
        "sequence_len": options.length,
        "micro_batch_size": options.rows,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "learning_rate": 2e-4,
        "optimizer": "adamw_torch_fused",
        "bf16": options.shape != "tiny",
        "probe_longest_batch": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(output),
        **LORA,
        **changes,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    began = time.perf_counter()
    command = [sys.executable, "-m", "siredon", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - began, 1)
    said = done.stdout + done.stderr
    found: dict[str, Any] = {"changes": changes, "status": done.returncode, "seconds": seconds}
    if done.returncode:
        return {**found, "said": said[-4000:]}
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    line = re.search(r"longest batch: .*", said)
    peak = max(row["peak_memory_gib"] for row in rows if "loss" in row)
    return {**found, "said": line[0] if line else "", "peak_gib": peak}


def judge(refused: dict[str, Any], named: list[tuple[str, str, str]], runs: list[dict[str, Any]]) -> str:
    """Whether the report was right."""
    if refused["status"] != 1 or not named:
        return "the first run was not refused with changes"
    for (change, figure, how), ran in zip(named, runs, strict=True):
        if ran["status"]:
            return f"{change}: did not run"
        if ran["peak_gib"] > 1.05 * float(figure):
            return f"{change}: {how} {figure} GiB, took {ran['peak_gib']}"
    return "each change fits"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--work", type=Path, default=Path("/tmp/siredon-qlora"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    import torch
    import transformers

    from siredon.hardware import probe_hardware

    folder = options.work / f"model-{options.shape}"
    if not (folder / "config.json").is_file():
        write_model(folder, SHAPES[options.shape])
        write_tokenizer(folder)
    write_rows(options.work / "probe-rows.jsonl", options.length)
    refused = run(options, "refused", {})
    print(refused["said"], flush=True)
    named: list[tuple[str, str, str]] = _CHANGE.findall(refused["said"]) if refused["status"] else []
    runs = []
    for index, (change, figure, how) in enumerate(named):
        runs.append(run(options, f"change-{index}", yaml.safe_load(f"{{{change}}}")))
        runs[-1] |= {"named_gib": float(figure), "how": how}
        print(json.dumps(runs[-1]), flush=True)
    verdict = judge(refused, named, runs)
    print(verdict, flush=True)
    hardware = probe_hardware()
    report = {
        "what": f"Llama {options.shape}, random weights, LoRA r16 on all linear layers, {options.rows} rows of "
        f"{options.length} tokens",
        "device": hardware.name,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
        "date": datetime.date.today().isoformat(),
        "verdict": verdict,
        "refused": refused,
        "runs": runs,
    }
    short = "h100" if "H100" in hardware.name else "gpu" if hardware.is_gpu else "cpu"
    output = options.output or ROOT / "benchmarks/results" / f"probe_{short}_{report['date']}.json"
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(output)
    if verdict != "each change fits":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
