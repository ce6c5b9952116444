"""What `siredon train` reaches, from its own metrics, at the shapes of the bare loops of a training benchmark.

    python benchmarks/end_to_end.py --tokenizer FOLDER --data alpaca.json [--shape 1b|8b|tiny] [--output results.md]

Random weights, bf16, AdamW; the median of the log lines after the warm-up.  Beside each cell stands the bare loop of
`bare_loop.py` over the same model, kernels and packs, run right after it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from report import write_report
from train import LORA, SHAPES, write_model

SYNTHETIC = {"path": "_synthetic", "type": "_synthetic", "length": 200, "sequence_length": 4096}
CELLS: dict[str, dict[str, Any]] = {
    "full, 4,096 x 4": {"datasets": [SYNTHETIC], "micro_batch_size": 4},
    "full, 4,096 x 4, no kernels": {
        "datasets": [SYNTHETIC],
        "micro_batch_size": 4,
        "kernels": False,
        "chunked_cross_entropy": False,
    },
    "LoRA, 4,096 x 4": {"datasets": [SYNTHETIC], "micro_batch_size": 4, **LORA},
    "full, alpaca packed, 4,096 x 2": {
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": 2,
    },
    "full, alpaca packed, 4,096 x 4": {
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": 4,
    },
    "packed 4,096 x 4, no kernels": {
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": 4,
        "kernels": False,
    },
    "packed 4,096 x 4, compiled": {
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": 4,
        "torch_compile": True,
    },
    "LoRA, 4,096 x 2, automatic plan": {
        "datasets": [SYNTHETIC],
        "micro_batch_size": 2,
        "gradient_checkpointing": "auto",
        **LORA,
    },
}


def write_weights(folder: Path) -> None:
    """Random weights beside the config, drawn on the device: initializing them on a CPU takes minutes."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    device, weights = torch.accelerator.current_accelerator() or torch.device("cpu"), {}
    tied = {"lm_head.weight"} if skeleton.config.tie_word_embeddings else set()
    for name, weight in skeleton.named_parameters():
        if name not in tied:
            drawn = torch.empty(weight.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
            weights[name] = drawn.fill_(1).cpu() if "norm" in name else drawn.cpu()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def run(name: str, keys: dict[str, Any], options: argparse.Namespace) -> tuple[str, list[str]]:
    """One line of the table, and what the run said of itself."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    output = options.work / slug
    values = {
        "base_model": str(options.work / "model"),
        "datasets": [{"path": str(options.data), "type": "alpaca"}] * 4,
        "dataset_prepared_path": str(options.work / "prepared"),
        "sequence_len": 4096,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 2e-5,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "bf16": True,
        "logging_steps": options.log,
        "save_strategy": "no",
        "output_dir": str(output),
        **keys,
    }
    path = options.work / f"{slug}.yml"
    path.write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, "-m", "siredon", "train", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"| {name} | failed: {done.stderr.strip().splitlines()[-1][:200]} | | | | |", [done.stderr]
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    late = [row["tokens_per_second"] for row in rows if row["step"] > options.warmup]
    peak = max(row.get("peak_memory_gib", 0) for row in rows)
    said = [
        line for line in done.stderr.splitlines() if line.startswith(("kernels", "loss", "memory", "longest"))
    ]
    speed, loss = statistics.median(late), rows[0]["loss"]
    line = f"| {name} | {speed:,.0f} | {peak:.1f} | {loss:.4f} |"
    if keys.get("kernels") is False or keys.get("torch_compile"):
        return f"{line} | |", said
    bare = run_bare(path, values, options)
    said += [f"  {part}: {size:.2f} GiB" for part, size in bare["memory"].items()]
    return (
        f"{line} {bare['tokens_per_second']:,.0f} | {100 * speed / bare['tokens_per_second']:.1f} % |",
        said,
    )


def run_bare(path: Path, values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What the bare loop says of the same file; with an automatic plan, of the one that it came to on this GPU."""
    plan = json.loads((Path(values["output_dir"]) / "run.json").read_text()).get("gradient_checkpointing")
    if plan:
        fraction = plan["recomputed_layers"] / plan["num_layers"]
        path.write_text(yaml.safe_dump({**values, "gradient_checkpointing": fraction or False}))
    script = Path(__file__).with_name("bare_loop.py")
    flags = ["--steps", str(options.steps), "--log", str(options.log), "--warmup", str(options.warmup)]
    command = [sys.executable, str(script), str(path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(found[0].removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/end_to_end"))
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--log", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.data = options.data.resolve()
    write_model(options.work / "model", options.tokenizer, SHAPES[options.shape])
    write_weights(options.work / "model")
    lines = []
    for name, keys in CELLS.items():
        if options.only and not any(word in name for word in options.only.split(";")):
            continue
        line, said = run(name, keys, options)
        print(line, *said, sep="\n", flush=True)
        lines.append(line)
    head = [
        "# `siredon train`, end to end",
        "",
        f"{datetime.date.today()}, Llama {options.shape}, random weights, bf16, {options.steps} steps, a log every "
        f"{options.log}, median after step {options.warmup}.",
        "",
        "| cell | useful tok/s | peak GiB | mean loss of the first log | bare loop | of it |",
        "|---|---|---|---|---|---|",
    ]
    write_report([*head, *lines], options.output)


if __name__ == "__main__":
    main()
