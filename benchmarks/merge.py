"""A merge file by file: its peak of memory and its time, on a base of random weights in files of 5 GB.

    python benchmarks/merge.py [--shape 8b|tiny] [--work FOLDER] [--legacy] [--output benchmarks/results/merge_....md]

The base (16 GB in bf16 for `8b`: the shape of Llama 3 8B) and a LoRA adapter of rank 16 on every linear layer are made
on the spot, tensor by tensor.  The merge is a process of its own; its peak is the largest resident set that the
system saw of it, pages of mapped files included, so it is an upper bound.  `--legacy` merges the whole model in memory
too, in fp32, for comparison; `--verify` adds the check, which loads the model twice, in bf16.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from report import write_report
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from siredon.export.tensor_files import Shards, ShardWriter, list_shards
from siredon.hardware import probe_hardware

RANK = 16
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES: dict[str, dict[str, int]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
}
SHARD_BYTES = {"8b": 5 * 10**9, "tiny": 10 * 10**6}


@dataclass(frozen=True)
class Measured:
    method: str
    seconds: float
    peak_bytes: int


def write_base(folder: Path, shape: str) -> None:
    """Random weights, written as they are made, with settings and a tokenizer of bytes."""
    folder.mkdir(parents=True)
    config = LlamaConfig(
        **SHAPES[shape], tie_word_embeddings=False, dtype="bfloat16", eos_token_id=1, pad_token_id=0
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = model.state_dict()
    chance = torch.Generator().manual_seed(0)
    with ShardWriter(folder, weights, SHARD_BYTES[shape]) as writer:
        for name, weight in weights.items():
            drawn = torch.empty(weight.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=chance)
            writer.write(name, torch.ones_like(drawn) if "norm" in name else drawn)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """One of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder
    )


def write_adapter(folder: Path, base: Path) -> None:
    """LoRA on every linear layer but the head, all of it random."""
    folder.mkdir(parents=True)
    chance = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in Shards(list_shards(base)).shapes.items():
        layer = name.removesuffix(".weight")
        if layer.endswith(LAYERS):
            for half, size in (("A", (RANK, shape[1])), ("B", (shape[0], RANK))):
                drawn = torch.empty(size).normal_(0, 0.01, generator=chance)
                tensors[f"base_model.model.{layer}.lora_{half}.weight"] = drawn
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": list(LAYERS),
        "base_model_name_or_path": str(base),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def merge(work: Path, method: str, *, verify: bool) -> Measured:
    """Merges in a process of its own, whose peak the system tells when it ends."""
    config = work / "merge.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "base_model": str(work / "base"),
                "datasets": [{"path": str(work / "none.jsonl"), "type": "completion"}],
                "adapter": "lora",
                "learning_rate": 1e-4,
                "bf16": True,
                "merge_method": method,
                "lora_model_dir": str(work / "out"),
                "output_dir": str(work / "out"),
            }
        )
    )
    command = [sys.executable, "-m", "siredon", "merge-lora", str(config)]
    began = time.perf_counter()
    child = subprocess.Popen([*command, "--verify" if verify else "--no-verify"])
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"the merge ended with {os.waitstatus_to_exitcode(status)}")
    label = f"`{method}`" + (", verified" if verify else "")
    return Measured(label, seconds, usage.ru_maxrss * 1024)


def describe(measured: list[Measured], base: Path, shape: str) -> list[str]:
    files = list_shards(base)
    largest = Shards(files).largest_file_bytes
    total = sum(file.stat().st_size for file in files)
    allowed = 1.5 * largest + 2e9
    lines = [
        f"# merge, {shape} on {probe_hardware().name}",
        "",
        f"Base of {total / 1e9:.2f} GB in {len(files)} files, the largest {largest / 1e9:.2f} GB; LoRA of rank "
        f"{RANK} on every linear layer.  One and a half files and 2 GB are {allowed / 1e9:.2f} GB.",
        "",
        "| merge | seconds | peak, GB | below 1.5 files + 2 GB |",
        "|---|---|---|---|",
    ]
    for row in measured:
        peak = row.peak_bytes / 1e9
        lines.append(
            f"| {row.method} | {row.seconds:.1f} | {peak:.2f} | {'yes' if row.peak_bytes < allowed else 'no'} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--work", type=Path, help="folder for base and result: 33 GB for 8b")
    parser.add_argument("--legacy", action="store_true", help="also in memory: 37 GB for 8b")
    parser.add_argument("--verify", action="store_true", help="also with the check")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=given.work, prefix="merge-"))
    try:
        write_base(work / "base", given.shape)
        write_adapter(work / "out", work / "base")
        measured = [merge(work, "memory_efficient", verify=False)]
        if given.verify:
            measured.append(merge(work, "memory_efficient", verify=True))
        if given.legacy:
            measured.append(merge(work, "legacy", verify=False))
        lines = describe(measured, work / "base", given.shape)
    finally:
        shutil.rmtree(work)
    write_report([*lines, "", f"{datetime.date.today()}"], given.output)


if __name__ == "__main__":
    main()
