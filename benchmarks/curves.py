"""Losses of a run with fused kernels beside those of the same run without, on real data, over several seeds.

    python benchmarks/curves.py --tokenizer FOLDER --data alpaca.json [--steps 200] [--seeds 3] [--output results.md]

Each run is `siredon train` on a small Llama of random weights in bf16, LoRA off, packed.  Four runs a seed: `plain`
(`kernels: false`, logits whole) and `again`, the same once more, whose sums a GPU adds up in another order; `fused`
(what a GPU takes by itself), and `other`: plain with eager attention, the same mathematics with other roundings.  How
far `again` and `other` are from `plain` is the noise that `fused` is held against.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from report import write_report
from train import write_model

SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "rope_theta": 10000.0,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kernels": False, "chunked_cross_entropy": False},
    "again": {"kernels": False, "chunked_cross_entropy": False},
    "fused": {},
    "fused-again": {},
    "other": {"kernels": False, "chunked_cross_entropy": False, "attn_implementation": "eager"},
}


def run(kind: str, seed: int, options: argparse.Namespace) -> list[float]:
    """The losses of one run, step by step."""
    name = f"{kind}-{seed}"
    values = {
        "base_model": str(options.work / "model"),
        "reinit_weights": True,
        "datasets": [{"path": str(options.data), "type": "alpaca"}],
        "dataset_prepared_path": str(options.work / "prepared"),
        "sequence_len": options.length,
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": options.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 1e-3,
        "lr_scheduler": "cosine",
        "warmup_steps": 10,
        "optimizer": "adamw_torch_fused",
        "bf16": "auto",
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": seed,
        "output_dir": str(options.work / name),
        **KINDS[kind],
    }
    path = options.work / f"{name}.yml"
    path.write_text(yaml.safe_dump(values))
    log = options.work / f"{name}.log"
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "siredon", "train", str(path)], stdout=stream, stderr=stream, check=False
        )
    if done.returncode:
        sys.exit(f"{name}: {log.read_text()[-3000:]}")
    rows = [json.loads(line) for line in (options.work / name / "metrics.jsonl").read_text().splitlines()]
    for line in log.read_text().splitlines():
        if line.startswith(("kernels:", "loss:", "attention:")):
            print(f"{name}: {line}", flush=True)
    return [row["loss"] for row in rows if "loss" in row]


def far(one: list[float], other: list[float], part: slice) -> tuple[float, float]:
    """Mean size of the differences of two curves, and their mean."""
    differences = [a - b for a, b in zip(one[part], other[part], strict=True)]
    return statistics.fmean(map(abs, differences)), statistics.fmean(differences)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/curves"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--kinds", default="again,other,fused", help="what is held against `plain`")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=1, help="runs that share the GPU")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.data = options.data.resolve()
    write_model(options.work / "model", options.tokenizer, SHAPE)
    began, rows = time.perf_counter(), []
    quarter = options.steps // 4
    run("plain", 0, argparse.Namespace(**{**vars(options), "steps": 1}))  # prepares the data for all
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    kinds = ["plain", *options.kinds.split(",")]
    with ThreadPoolExecutor(options.at_once) as pool:
        runs = {(kind, seed): pool.submit(run, kind, seed, options) for seed in seeds for kind in kinds}
    for seed in seeds:
        curves = {kind: runs[kind, seed].result() for kind in kinds}
        plain = curves["plain"]
        for kind in kinds[1:]:
            first = abs(curves[kind][0] - plain[0])
            whole, mean = far(curves[kind], plain, slice(None))
            last, _ = far(curves[kind], plain, slice(-quarter, None))
            end = statistics.fmean(curves[kind][-quarter:])
            rows.append(
                f"| {seed} | {kind} | {first:.1e} | {whole:.1e} | {mean:+.1e} | {last:.1e} | {end:.4f} "
                f"| {statistics.fmean(plain[-quarter:]):.4f} |"
            )
            print(rows[-1], flush=True)
    text = [
        "# Losses with and without fused kernels",
        "",
        f"{datetime.date.today()}, `python benchmarks/curves.py`: {options.steps} steps of {options.batch} x "
        f"{options.length} tokens, packed, a Llama of 8 layers, bf16; {time.perf_counter() - began:.0f} s. Differences "
        f"from the plain run of the same seed. `again` is that run once more, `other` has eager attention.",
        "",
        "| seed | run | step 1 | mean size | mean | last quarter | its loss there | plain there |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    write_report(text, options.output)


if __name__ == "__main__":
    main()
