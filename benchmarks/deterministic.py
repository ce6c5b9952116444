"""What `deterministic: true` costs and gives: whole runs with and without it, in turn, in one process.

    python benchmarks/deterministic.py [--shape 360m|tiny] [--steps 24] [--turns 2] [--output FILE.md]

A Llama of random weights on random tokens, in bf16, with `attn_implementation: sdpa`: trained whole and with LoRA, on
rows that all have the same length and on packed rows, whose borders need a mask and so other kernels.  First parity:
losses with and without the key must agree.  Then each line says in how many different results the runs ended, by the
hash of the weights and by all losses, and the median of tokens a second after the warm-up.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from qlora import write_tokenizer
from report import write_report

from siredon import pipeline
from siredon.config.load import load_config
from siredon.hardware import probe_hardware

SHAPES: dict[str, dict[str, Any]] = {
    # SmolLM2 360M
    "360m": {
        "vocab_size": 49152,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_linear": True}
CELLS: dict[str, dict[str, Any]] = {
    "full, rows": {},
    "full, packed": {"sample_packing": True},
    "LoRA r16, packed": {**LORA, "sample_packing": True},
}
HEAD = """\
| cell | results without | results with | ms a step without | with | ratio | loss of the last step without | with |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Outcome:
    """How a run came out."""

    result: str
    losses: tuple[float, ...]
    ms: float


def write_model(folder: Path, shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)


def write_config(work: Path, keys: dict[str, Any], options: argparse.Namespace) -> Path:
    packed = "sample_packing" in keys
    rows = {
        "path": "synthetic",
        "type": "_synthetic",
        "length": 4 * options.batch * options.steps,
        # Three rows of this length to a pack, and some padding
        "sequence_length": options.length // 10 * 3 if packed else options.length,
        "min_input_id": 3,
        "max_input_id": 250,
    }
    values = {
        "base_model": str(work / "model"),
        "datasets": [rows],
        "dataset_prepared_path": str(work / "prepared"),
        "sequence_len": options.length,
        "micro_batch_size": options.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "bf16": True,
        "attn_implementation": "sdpa",
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(work / "out"),
        **keys,
    }
    path = work / "config.yml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(work: Path, keys: dict[str, Any], options: argparse.Namespace) -> Outcome:
    """A whole run, by the pipeline's own verb."""
    config, _ = load_config(str(write_config(work, keys, options)))
    pipeline.train(config)
    folder = work / "out"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    record = json.loads((folder / "run.json").read_text())
    shutil.rmtree(folder)
    speed = statistics.median(row["tokens_per_second"] for row in rows if row["step"] > options.warmup)
    losses = tuple(row["loss"] for row in rows)
    result = json.dumps([record["finished"]["weights"], losses])
    return Outcome(result, losses, 1e3 * record["finished"]["num_tokens"] / len(rows) / speed)


def compare(name: str, work: Path, options: argparse.Namespace) -> str:
    """The line of a cell: runs without the key and with it, in turn."""
    without, having = [], []
    for turn in range(options.turns):
        for is_on in (False, True) if turn % 2 == 0 else (True, False):
            began = time.perf_counter()
            (having if is_on else without).append(run(work, {**CELLS[name], "deterministic": is_on}, options))
            print(f"{name}, {is_on}: {time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    apart = max(abs(a - b) for a, b in zip(without[0].losses, having[0].losses, strict=True))
    if apart > 0.05:
        raise SystemExit(f"{name}: losses with and without the key are {apart:.3f} apart")
    results = [len({outcome.result for outcome in runs}) for runs in (without, having)]
    a, b = (statistics.median(outcome.ms for outcome in runs) for runs in (without, having))
    last = [runs[0].losses[-1] for runs in (without, having)]
    return f"| {name} | {results[0]} | {results[1]} | {a:.1f} | {b:.1f} | {b / a:.3f} | {last[0]:.6f} | {last[1]:.6f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="360m")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, transformers))
    lines = [
        f"# `deterministic: true` next to `false`, {datetime.date.today().isoformat()}",
        "",
        f"{probe_hardware().name}; {versions}. Llama {options.shape}, random weights, bf16, sdpa, "
        f"{options.length} x {options.batch} tokens a step, {options.steps} steps, median after step "
        f"{options.warmup}, {options.turns} runs of each in turn, all in one process. Results: how many different ones "
        "these runs ended in, by the hash of the weights and all losses.",
        "",
        HEAD,
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_model(work / "model", SHAPES[options.shape])
        for name in options.cells:
            lines.append(compare(name, work, options))
            print(lines[-1], file=sys.stderr)
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
