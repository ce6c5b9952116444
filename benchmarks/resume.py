"""What going on costs after 10 optimizer steps and after 10,000: from the start of training to the first new step.

python benchmarks/resume.py [--runs 5] [--output benchmarks/results/resume_cpu_DATE.md]

A model of one layer on made-up rows, packed: prepared ahead, with and without fetching processes, and as a stream.
Both runs are made up to 10 steps, then up to 10,000, and each checkpoint is gone on from in turn.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from report import write_report

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

STEPS = (10, 10_000)
#: Rows of about 20 tokens, three to a pack of 64; two packs a step.
NUM_ROWS = 75_000
KINDS: dict[str, dict[str, Any]] = {
    "prepared": {},
    "prepared, 2 fetching processes": {"dataloader_num_workers": 2},
    "stream": {"streaming": True},
}


def write_model(folder: Path) -> None:
    """A Llama of one layer, 16 wide, and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", "<pad>", *alphabet]
    inner = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


class Clock:
    """When training began, and when the first optimizer step was made, of the run that is under way."""

    def __init__(self) -> None:
        self.began = self.first = 0.0

    def install_(self) -> None:
        """Looks at the two methods of Siredon's own trainer, in this process."""
        from siredon.train.trainer import SiredonTrainer

        train, step = SiredonTrainer.train, SiredonTrainer.training_step

        def timed_train(*args: Any, **options: Any) -> Any:
            self.began, self.first = time.perf_counter(), 0.0
            return train(*args, **options)

        def timed_step(*args: Any, **options: Any) -> Any:
            result = step(*args, **options)
            self.first = self.first or time.perf_counter()
            return result

        changed: dict[str, Callable[..., Any]] = {"train": timed_train, "training_step": timed_step}
        for name, method in changed.items():
            setattr(SiredonTrainer, name, method)

    @property
    def seconds(self) -> float:
        return self.first - self.began


def train(folder: Path, **keys: Any) -> None:
    import yaml

    from siredon import pipeline
    from siredon.config.load import load_config

    path = folder / "config.yml"
    values = {
        "base_model": str(folder / "model"),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "completion"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "sequence_len": 64,
        "sample_packing": True,
        "micro_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler": "constant",
        "bf16": False,
        "logging_steps": 1000,
        **keys,
    }
    path.write_text(yaml.safe_dump(values))
    with redirect_stderr(StringIO()):
        pipeline.train(load_config(str(path))[0])


def measure(folder: Path, kind: str, num_runs: int, clock: Clock) -> dict[int, list[float]]:
    """Steps that were done -> seconds to the first new one."""
    keys, out = KINDS[kind], folder / kind.partition(",")[0]
    for step in STEPS:  # with nothing to do where the kind before has made them
        rest = {"output_dir": str(out), "save_steps": step, "auto_resume_from_checkpoints": True}
        train(folder, **keys, **rest, max_steps=step)
    found: dict[int, list[float]] = {step: [] for step in STEPS}
    for _ in range(num_runs):  # in turn, so that a busy moment hits both
        for step in STEPS:
            named = {"resume_from_checkpoint": str(out / f"checkpoint-{step}"), "save_strategy": "no"}
            train(folder, **keys, **named, output_dir=str(folder / "new"), max_steps=step + 1)
            found[step].append(clock.seconds)
    return found


def write_rows(path: Path) -> None:
    draw = random.Random(0)
    with path.open("w") as stream:
        for number in range(NUM_ROWS):
            stream.write(json.dumps({"text": f"row {number} " + "x" * draw.randrange(16)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    import torch

    clock = Clock()
    clock.install_()
    lines = [
        "# Going on from a checkpoint: seconds from the start of training to the first new step",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}. A model of one layer, {NUM_ROWS:,} rows, packed, 2 packs a step; "
        f"{options.runs} runs each, in turn.",
        "",
        "| training data | steps done | median s | fastest s | slowest s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_rows(folder / "rows.jsonl")
        for kind in KINDS:
            for step, seconds in measure(folder, kind, options.runs, clock).items():
                lines.append(
                    f"| {kind} | {step:,} | {statistics.median(seconds):.3f} | {min(seconds):.3f} "
                    f"| {max(seconds):.3f} |"
                )
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
