"""What checkpoints cost in step time: none, written in the background, and written while training waits.

    python benchmarks/saving.py [--shape 1b|tiny] [--kinds full LoRA] [--steps 23] [--every 10] [--output FILE.md]

A Llama of random weights on random tokens in bf16, trained by the pipeline's own verb; runs of a kind share a process,
after one that is not counted.  A step ends when its line is logged, which waits for its loss; a save comes between two
lines.  So a step that follows a save holds what training waited for, and steps after it what a thread that writes takes
from them.  The losses of the three runs are compared.  Without a GPU, the tiny shape shows that the script runs.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
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
    # Llama 3.2 1B, but for its large vocabulary: 1.04 billion weights
    "1b": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rope_theta": 500000.0,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-5},
    "LoRA": {
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_linear": True,
        "learning_rate": 1e-4,
    },
}
MODES: dict[str, dict[str, Any]] = {
    "none": {"save_strategy": "no"},
    "in the background": {"save_in_background": True},
    "while training waits": {"save_in_background": False},
}
_STEP = re.compile(r"step +(\d+)/")
HEAD = """\
| kind | checkpoints | median step, s | longest step, s | steps after a save, s | above the median, s | all steps, s | \
from a save to its publication, s | end of the run, s |
|---|---|---|---|---|---|---|---|---|"""


class Clock(io.TextIOBase):
    """Takes what a run says, and keeps when each step was logged."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[float, float]] = {}
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        now = time.perf_counter(), time.time()
        for found in _STEP.finditer(text):
            self.steps.setdefault(int(found[1]), now)
        self.lines.append(text)
        return len(text)


@dataclass(frozen=True)
class Outcome:
    """How a run came out.

    Args:
        seconds: Step -> seconds from the line of the step before to its own.
        losses: Of every step.
        writing: Seconds from the line of a step to the manifest of its checkpoint, of those that are left.
        end: Seconds from the last line to the end of the run.
        size: Bytes of a checkpoint.
    """

    seconds: dict[int, float]
    losses: tuple[float, ...]
    writing: tuple[float, ...]
    end: float
    size: int


def write_model(folder: Path, shape: dict[str, Any]) -> None:
    """Random weights, drawn where the run computes: a gigabyte takes long on few cores."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.device(probe_hardware().device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to("cpu").save_pretrained(folder)
    write_tokenizer(folder)


def write_config(work: Path, keys: dict[str, Any], options: argparse.Namespace) -> Path:
    values = {
        "base_model": str(work / "model"),
        "datasets": [
            {
                "path": "synthetic",
                "type": "_synthetic",
                "length": options.batch * options.accumulate * options.steps,
                "sequence_length": options.length,
                "min_input_id": 3,
                "max_input_id": 250,
            }
        ],
        "dataset_prepared_path": str(work / "prepared"),
        "sequence_len": options.length,
        "micro_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulate,
        "max_steps": options.steps,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "bf16": True,
        "probe_longest_batch": False,
        "logging_steps": 1,
        "save_steps": options.every,
        "save_total_limit": 2,
        "output_dir": str(work / "out"),
        **keys,
    }
    if values.get("save_strategy") == "no":
        del values["save_steps"], values["save_total_limit"]
    path = work / "config.yml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(work: Path, keys: dict[str, Any], options: argparse.Namespace) -> Outcome:
    """A whole run."""
    config, _ = load_config(str(write_config(work, keys, options)))
    clock = Clock()
    try:
        with redirect_stderr(clock), redirect_stdout(io.StringIO()):
            pipeline.train(config)
    except BaseException:
        sys.stderr.write("".join(clock.lines[-20:]))
        raise
    ended = time.perf_counter()
    folder = work / "out"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = tuple(row["loss"] for row in rows if "loss" in row)
    last = max(clock.steps)
    written = {int(path.name[11:]): path / "manifest.json" for path in folder.glob("checkpoint-*")}
    files = [path for path in folder.glob(f"checkpoint-{last}/*") if path.is_file()]
    outcome = Outcome(
        {step: clock.steps[step][0] - clock.steps[step - 1][0] for step in sorted(clock.steps) if step > 1},
        losses,
        tuple(path.stat().st_mtime - clock.steps[step][1] for step, path in sorted(written.items())),
        ended - clock.steps[last][0],
        sum(path.stat().st_size for path in files),
    )
    shutil.rmtree(folder)
    return outcome


def describe(kind: str, mode: str, outcome: Outcome, options: argparse.Namespace) -> str:
    """The line of a run; steps up to `--warmup` are left out."""
    timed = {step: each for step, each in outcome.seconds.items() if step > options.warmup}
    saves = [step for step in range(options.every, options.steps, options.every) if step >= options.warmup]
    median = statistics.median(timed.values())
    after = ", ".join(f"{timed[step + 1]:.3f}" for step in saves)
    waited = statistics.mean(timed[step + 1] for step in saves) - median
    lost = "" if mode == "none" else f"{waited:.3f}"
    writing = ", ".join(f"{each:.1f}" for each in outcome.writing)
    return (
        f"| {kind} | {mode} | {median:.3f} | {max(timed.values()):.3f} | {after} | "
        f"{lost} | {sum(timed.values()):.2f} | {writing} | {outcome.end:.1f} |"
    )


def compare(kind: str, work: Path, options: argparse.Namespace) -> list[str]:
    """The lines of a kind, and one on its losses and the size of its checkpoints."""
    first = argparse.Namespace(**{**vars(options), "steps": options.warmup})
    run(work, {**KINDS[kind], **MODES["none"]}, first)  # kernels are built and chosen
    lines, found = [], {}
    for mode, keys in MODES.items():
        began = time.perf_counter()
        found[mode] = run(work, {**KINDS[kind], **keys}, options)
        lines.append(describe(kind, mode, found[mode], options))
        print(f"{lines[-1]}  ({time.perf_counter() - began:.0f} s in all)", file=sys.stderr, flush=True)
        if options.output:  # What is there outlives a run that is cut off
            with options.output.with_suffix(".part").open("a") as part:
                part.write(lines[-1] + "\n")
    every = zip(*(outcome.losses for outcome in found.values()), strict=True)
    apart = max(max(losses) - min(losses) for losses in every)
    if apart > 0.05:
        raise SystemExit(f"{kind}: losses of runs that differ only in saving are {apart:.3f} apart")
    sizes = f"{found['in the background'].size / 1e6:,.1f} MB"
    return [
        *lines,
        f"| {kind} | | checkpoint: {sizes} | largest difference of losses: {apart:.1e} | | | | | |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    is_gpu = probe_hardware().is_gpu
    parser.add_argument("--shape", choices=SHAPES, default="1b" if is_gpu else "tiny")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--length", type=int, default=2048 if is_gpu else 128)
    parser.add_argument("--batch", type=int, default=4 if is_gpu else 2)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, transformers))
    lines = [
        f"# Step time beside checkpoints, {datetime.date.today().isoformat()}",
        "",
        f"{probe_hardware().name}; {versions}. Llama {options.shape}, random weights, bf16, adamw_torch_fused, "
        f"{options.batch} x {options.accumulate} rows of {options.length} tokens a step, {options.steps} steps, a "
        f"checkpoint every {options.every}; steps up to {options.warmup} are not counted.",
        "",
        HEAD,
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_model(work / "model", SHAPES[options.shape])
        for kind in options.kinds:
            lines += compare(kind, work, options)
    write_report(lines, options.output)
    if options.output:
        options.output.with_suffix(".part").unlink()


if __name__ == "__main__":
    main()
