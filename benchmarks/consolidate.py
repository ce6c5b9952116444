"""A sharded checkpoint put together: its peak of memory and its time.

    python benchmarks/consolidate.py [--shape 3gb|tiny] [--work FOLDER] [--output benchmarks/results/consolidate_....md]

Two processes make random weights in fp32 (3 GB for `3gb`), each its half of every tensor, and write them by PyTorch's
distributed checkpoint.  Then each way to put them together is a process of its own; its peak is the largest resident
set that the system saw of it, pages of mapped files included.  The other way is PyTorch's `dcp_to_torch_save`, which
reads all into one dictionary and writes a pickle; it checks nothing, and makes no model folder.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from merge import SHAPES as MERGE_SHAPES
from merge import write_tokenizer
from report import write_report
from transformers import LlamaConfig, LlamaForCausalLM

from siredon.hardware import probe_hardware

SHAPES: dict[str, dict[str, int]] = {
    "3gb": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 14,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "tiny": MERGE_SHAPES["tiny"],
}
BY_TORCH = (
    "import sys; from torch.distributed.checkpoint.format_utils import dcp_to_torch_save; "
    "dcp_to_torch_save(sys.argv[1], sys.argv[2])"
)

IMPORTS = "from transformers import LlamaForCausalLM; import peft"


@dataclass(frozen=True)
class Measured:
    way: str
    seconds: float
    peak_bytes: int


def make_config(shape: str) -> Any:
    return LlamaConfig(
        **SHAPES[shape], tie_word_embeddings=False, dtype="float32", eos_token_id=1, pad_token_id=0
    )


def write_half(folder: Path, shape: str) -> None:
    """One of the two ranks."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    with torch.device("meta"):
        weights = LlamaForCausalLM(make_config(shape)).state_dict()
    chance = torch.Generator().manual_seed(dist.get_rank())
    state = {}
    for name, weight in weights.items():
        local = torch.empty(weight.shape[0] // 2, *weight.shape[1:]).normal_(0, 0.02, generator=chance)
        state[name] = DTensor.from_local(local, mesh, [Shard(0)])
    dcp.save({"model": state}, checkpoint_id=folder)
    dist.destroy_process_group()


def write_checkpoint(folder: Path, shape: str) -> None:
    """Both ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, __file__, "--shape", shape, "--half", str(folder)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SystemExit("a rank has failed")


def measure(way: str, command: list[str]) -> Measured:
    """Runs it in a process of its own, whose peak the system tells when it ends."""
    began = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{way} ended with {os.waitstatus_to_exitcode(status)}")
    return Measured(way, time.perf_counter() - began, usage.ru_maxrss * 1024)


def describe(measured: list[Measured], pieces: Path, shape: str) -> list[str]:
    files = sorted(pieces.glob("*.distcp"))
    sizes = " and ".join(f"{file.stat().st_size / 1e9:.2f} GB" for file in files)
    largest = 4 * SHAPES[shape]["vocab_size"] * SHAPES[shape]["hidden_size"]
    lines = [
        f"# consolidate, {shape} on {probe_hardware().name}",
        "",
        f"A checkpoint of two ranks, {sizes} in fp32; its largest tensor has {largest / 1e9:.2f} GB.  torch "
        f"{torch.__version__}.",
        "",
        "| way | seconds | peak, GB |",
        "|---|---|---|",
    ]
    return lines + [f"| {row.way} | {row.seconds:.1f} | {row.peak_bytes / 1e9:.2f} |" for row in measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="3gb")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint and results: 10 GB for 3gb")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--half", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.half:
        write_half(given.half, given.shape)
        return
    work = Path(tempfile.mkdtemp(dir=given.work, prefix="consolidate-"))
    try:
        pieces = work / "run/pytorch_model_fsdp_0"
        write_checkpoint(pieces, given.shape)
        config = make_config(given.shape)
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(work / "base")
        write_tokenizer(work / "base")
        verb = [sys.executable, "-m", "siredon", "merge-sharded-fsdp-weights", str(work / "run")]
        verb += ["--base-model", str(work / "base")]
        measured = [measure("`merge-sharded-fsdp-weights`, fp32", verb)]
        shutil.rmtree(work / "run/merged")
        measured.append(measure("the same, `--dtype bf16`", [*verb, "--dtype", "bf16"]))
        shutil.rmtree(work / "run/merged")
        by_torch = [sys.executable, "-c", BY_TORCH, str(pieces), str(work / "whole.pt")]
        measured.append(measure("`dcp_to_torch_save`, fp32", by_torch))
        (work / "whole.pt").unlink()
        measured.append(measure("nothing but the libraries, imported", [sys.executable, "-c", IMPORTS]))
        lines = describe(measured, pieces, given.shape)
    finally:
        shutil.rmtree(work)
    write_report([*lines, "", f"{datetime.date.today()}"], given.output)


if __name__ == "__main__":
    main()
