"""DPO by `siredon train` beside TRL's DPOTrainer: the same weights, pairs and batch, LoRA, in one run on one machine.

    python benchmarks/preference.py --tokenizer FOLDER --data dpo_en_demo.json [--shape 8b|1b|tiny] [--output FILE]

Random weights; rows of ShareGPT's layout with two answers each, no longer than `--length` tokens a side.  Both
recompute every layer, compare with the base by switching the adapter off, and take as many pairs in a batch; TRL pads
them, as it does by itself.  The longest batch is not tried out before: TRL does not, and it would be the peak.  Counted
are tokens that are no padding, prompts of both sides included; the peak is that of PyTorch's allocator.  A last line
lets Siredon choose what it recomputes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from end_to_end import write_weights
from report import write_report
from train import LORA, SHAPES, write_model

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from siredon.data.templates.chatml import TEMPLATE

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE.source
    return tokenizer


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Rows as TRL takes them: messages of the prompt, of the better and of the worse answer."""

    def convert(message: dict[str, str]) -> dict[str, str]:
        return {"role": ROLES[message["from"]], "content": message["value"]}

    return [
        {
            "prompt": [convert(message) for message in row["conversations"]],
            "chosen": [convert(row["chosen"])],
            "rejected": [convert(row["rejected"])],
        }
        for row in json.loads(path.read_text())
    ]


def write_short(options: argparse.Namespace) -> Path:
    """The rows of which neither side is too long, with how many tokens they are on average."""
    tokenizer, rows = load_tokenizer(options.tokenizer), json.loads(options.data.read_text())
    kept = []
    for row, pair in zip(rows, read_pairs(options.data), strict=True):
        sides = [pair["prompt"] + pair[side] for side in ("chosen", "rejected")]
        lengths = [len(tokenizer.apply_chat_template(side, return_dict=False)) for side in sides]
        if max(lengths) < options.length - 8 and pair["chosen"] != pair["rejected"]:
            kept.append(row)
    path: Path = options.work / "pairs.json"
    path.write_text(json.dumps(kept))
    return path


def run_ours(options: argparse.Namespace, checkpointing: Any) -> dict[str, float]:
    """The metrics of a run, and its peak."""
    output = options.work / f"ours-{checkpointing}"
    values = {
        "base_model": str(options.work / "model"),
        "rl": "dpo",
        "rl_beta": 0.1,
        "datasets": [
            {"path": str(options.pairs), "type": "chat_template.default", "field_messages": "conversations"}
        ],
        "chat_template": "chatml",
        "dataset_prepared_path": str(options.work / "prepared"),
        "sequence_len": options.length,
        "micro_batch_size": options.pairs_per_batch,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 1e-5,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "bf16": "auto",
        "gradient_checkpointing": checkpointing,
        "probe_longest_batch": False,  # The peak is that of the same steps
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": str(output),
        **LORA,
    }
    path = options.work / f"ours-{checkpointing}.yml"
    path.write_text(yaml.safe_dump(values))
    peak = float(call([sys.executable, __file__, "--ours", str(path)]))
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    late = [row["tokens_per_second"] for row in rows if row["step"] > options.warmup]
    return {"speed": statistics.fmean(late), "peak": peak, "loss": rows[0]["loss"]}


def train_ours(path: str) -> float:
    """Trains in this process; GiB at its peak."""
    from siredon import pipeline
    from siredon.config.load import load_config

    pipeline.train(load_config(path)[0])
    return read_peak()


def read_peak() -> float:
    """GiB; nothing on a CPU."""
    return torch.accelerator.max_memory_allocated() / 2**30 if torch.accelerator.is_available() else 1.0


def train_trl(options: argparse.Namespace) -> dict[str, float]:
    """The same by TRL, in this process."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(options.work / "model")
    model = AutoModelForCausalLM.from_pretrained(options.work / "model", dtype=torch.bfloat16)
    arguments = DPOConfig(
        output_dir=str(options.work / "trl"),
        per_device_train_batch_size=options.pairs_per_batch,
        max_steps=options.steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_length=options.length,
        beta=0.1,
        bf16=torch.accelerator.is_available(),
        use_cpu=not torch.accelerator.is_available(),
        gradient_checkpointing=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=42,
    )
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            times.append(time.perf_counter())

    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(read_pairs(options.pairs)),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS),
        callbacks=[Clock()],
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    first, last = options.warmup - 1, len(times) - 1
    tokens = rows[last]["num_tokens"] - rows[first]["num_tokens"]
    speed = tokens / (times[last] - times[first])
    return {
        "speed": speed,
        "peak": read_peak(),
        "loss": rows[0]["loss"],
    }


def call(command: list[str]) -> str:
    """What a process says on its line of results."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return found[0].removeprefix("RESULT ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/preference"))
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--pairs-per-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--ours", help="runs one configuration; for this script itself")
    parser.add_argument("--trl", action="store_true", help="runs TRL; for this script itself")
    options = parser.parse_args()
    if options.ours:
        print("RESULT", train_ours(options.ours), flush=True)
        return
    if options.trl:
        print("RESULT", json.dumps(train_trl(options)), flush=True)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    write_model(options.work / "model", options.tokenizer, SHAPES[options.shape])
    write_weights(options.work / "model")
    options.pairs = write_short(options)
    flags = {
        "work": options.work,
        "pairs": options.pairs,
        "length": options.length,
        "pairs-per-batch": options.pairs_per_batch,
        "steps": options.steps,
        "warmup": options.warmup,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    trl = json.loads(call([sys.executable, __file__, "--trl", *words]))
    lines = [
        f"# DPO beside TRL, Llama {options.shape}, LoRA of rank 16",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, `benchmarks/preference.py`: batches of "
        f"{options.pairs_per_batch} pairs of up to {options.length:,} tokens a side, bf16; steps "
        f"{options.warmup + 1} to {options.steps}.",
        "",
        "| | tokens/s | times TRL | peak GiB | of TRL's | loss at step 1 |",
        "|---|---|---|---|---|---|",
        f"| TRL, every layer recomputed | {trl['speed']:,.0f} | | {trl['peak']:.1f} | | {trl['loss']:.4f} |",
    ]
    print(lines[-1], flush=True)
    for name, checkpointing in (("every layer recomputed", True), ("automatic plan", "auto")):
        ours = run_ours(options, checkpointing)
        ratio, share = ours["speed"] / trl["speed"], ours["peak"] / trl["peak"]
        lines.append(
            f"| Siredon, {name} | {ours['speed']:,.0f} | {ratio:.2f} | {ours['peak']:.1f} | {100 * share:.0f} % "
            f"| {ours['loss']:.4f} |"
        )
        print(lines[-1], flush=True)
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
