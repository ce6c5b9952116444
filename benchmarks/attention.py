"""Attention by every kernel of this PyTorch, over whole rows and packed documents: forward and backward, in one run.

    python benchmarks/attention.py [--seconds 0.15] [--output results.md]

Each case has as many heads of 64 or 128 as a model of 1B or 8B, grouped 4 to 1, in bf16.  `ours` is the choice that
`siredon.model.attend` makes, by this table.  It needs a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from report import write_report
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from siredon.hardware import probe_hardware
from siredon.model.attend import attend, measure_ahead

GROUP = 4


@dataclass(frozen=True)
class Case:
    """Rows of a batch.

    Args:
        rows: How many.
        length: Tokens of each.
        heads: Heads of queries; a quarter as many of keys and values.
        width: Of a head.
        document: Tokens of each document; as many as the row where it is one.
    """

    rows: int
    length: int
    heads: int
    width: int
    document: int

    def describe(self) -> str:
        """For the table."""
        what = "whole" if self.document == self.length else f"documents of {self.document:,}"
        return f"{self.rows} x {self.length:,}, {self.heads} heads of {self.width}, {what}"

    def make(self, device: str) -> tuple[list[Tensor], Tensor]:
        """Queries [B, H, T, D], keys and values [B, H/4, T, D], as a model gives them; positions [B, T]."""
        heads = (self.heads, self.heads // GROUP, self.heads // GROUP)
        given = [
            torch.randn(self.rows, self.length, count, self.width, device=device, dtype=torch.bfloat16)
            .transpose(1, 2)
            .requires_grad_()
            for count in heads
        ]
        places = torch.arange(self.length, device=device) % self.document
        return given, places.repeat(self.rows, 1)


def list_cases() -> Iterator[Case]:
    for heads, width in ((32, 64), (32, 128)):
        for length in (512, 2048, 4096, 16384, 32768):
            yield Case(max(1, 16384 // length), length, heads, width, length)
        for document in (64, 256, 1024, 2048):
            yield Case(4, 4096, heads, width, document)
        yield Case(1, 16384, heads, width, 8192)


def run_backend(backend: SDPBackend, given: list[Tensor], mask: Tensor | None) -> Tensor:
    query, key, value = given
    with sdpa_kernel(backend):
        if mask is None:
            return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def run_ours(given: list[Tensor], positions: Tensor) -> Tensor:
    result, _ = attend(torch.nn.Module(), *given, None, position_ids=positions, scaling=None)
    return result.transpose(1, 2)


def run_varlen(given: list[Tensor], starts: Tensor, longest: int) -> Tensor:
    from siredon.model.attend import Borders, _attend_documents

    return _attend_documents(*given, Borders(starts, longest), None).transpose(1, 2)


def build_flex(case: Case, device: str) -> Callable[[list[Tensor]], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(row: Any, head: Any, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query // case.document == key // case.document)

    blocks = create_block_mask(sees, None, None, case.length, case.length, device=device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda given: compiled(*given, block_mask=blocks, enable_gqa=True)


def list_kernels(
    case: Case, positions: Tensor, flex: bool
) -> Iterator[tuple[str, Callable[[list[Tensor]], Tensor]]]:
    device = str(positions.device)
    whole = case.document == case.length
    mask = None
    if not whole:
        number = torch.arange(case.length, device=device) // case.document
        mask = (number[:, None] == number[None, :]).tril()[None, None]
    backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    if whole:
        backends["flash"] = SDPBackend.FLASH_ATTENTION
    for name, backend in backends.items():
        yield name, partial(run_backend, backend, mask=mask)
    starts = torch.arange(0, case.rows * case.length + 1, case.document, device=device, dtype=torch.int32)
    yield "varlen", partial(run_varlen, starts=starts, longest=case.document)
    if flex:
        yield "flex", build_flex(case, device)
    yield "ours", partial(run_ours, positions=positions)


def measure(run: Callable[[list[Tensor]], Tensor], given: list[Tensor], seconds: float) -> float:
    """Milliseconds forward and backward, the median over blocks of five."""
    above = torch.randn_like(run(given))

    def block() -> float:
        torch.accelerator.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            torch.autograd.grad(run(given), given, above)
        torch.accelerator.synchronize()
        return (time.perf_counter() - began) / 5

    block()
    times, ends = [block()], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        times.append(block())
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument(
        "--flex", default="64;2048;8192", help="lengths of documents for which flex is compiled"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    hardware = probe_hardware()
    names = ("cuDNN", "flash", "efficient", "varlen", "flex", "ours")
    lines = [
        f"# Attention by kernel, {hardware.describe()}",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, `benchmarks/attention.py`: milliseconds forward and "
        "backward, 4 heads of queries to one of keys; `-` where the kernel does not take the case or was not tried.",
        "",
        f"| case | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for case in list_cases():
        given, positions = case.make(hardware.device)
        measure_ahead(positions)
        found: dict[str, str] = {}
        for name, run in list_kernels(case, positions, str(case.document) in options.flex.split(";")):
            try:
                found[name] = f"{measure(run, given, options.seconds):.2f}"
            except (RuntimeError, ValueError) as error:
                print(f"{case.describe()}: {name}: {str(error).splitlines()[0][:150]}", flush=True)
        lines.append(f"| {case.describe()} | {' | '.join(found.get(name, '-') for name in names)} |")
        print(lines[-1], flush=True)
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
