"""Head and loss at once, next to one after the other: forward and backward pass, milliseconds and peak memory.

    python benchmarks/linear_cross_entropy.py [--shapes 8b,1b|tiny] [--repeats 10] [--chunk-rows N,N] [--output FILE.md]

Both compute the loss of the same random hidden states in bf16; first their losses and gradients must agree.  "plain"
is the product with the head's weights and the trainer's loss over logits (`train/losses.py`), which turns them into
fp32 some rows at a time.  The bound is the time of the products alone at the rate that a large one reaches here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from report import write_report
from torch import Tensor

from siredon.hardware import Hardware, forget_peak, probe_hardware, read_peak_bytes
from siredon.ops.linear_cross_entropy import IGNORE, LossOptions, linear_cross_entropy
from siredon.train.losses import cross_entropy_sum

#: Tokens, width and vocabulary.
SHAPES = {"8b": (8192, 4096, 128_256), "1b": (16_384, 2048, 128_256), "tiny": (300, 32, 1000)}


@dataclass(frozen=True)
class Cell:
    """One line: what is computed."""

    shape: str
    trained: bool
    share_of_targets: float
    chunk_rows: int | None

    def build(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        num, width, ids = SHAPES[self.shape]
        torch.manual_seed(0)
        hidden = torch.randn(num, width, device=device, dtype=torch.bfloat16).requires_grad_()
        weight = torch.randn(ids, width, device=device, dtype=torch.bfloat16) / width**0.5
        targets = torch.randint(0, ids, (num,), device=device)
        targets[torch.rand(num, device=device) >= self.share_of_targets] = IGNORE
        return hidden, weight.requires_grad_(self.trained), targets

    def run_ours(self, hidden: Tensor, weight: Tensor, targets: Tensor, num: int) -> Tensor:
        options = LossOptions(chunk_rows=self.chunk_rows, num_targets=num)
        return linear_cross_entropy(hidden, weight, targets, options=options)

    def run_plain(self, hidden: Tensor, weight: Tensor, targets: Tensor, num: int) -> Tensor:
        keep = (targets != IGNORE).nonzero().flatten()  # As `logits_to_keep` does
        return cross_entropy_sum(hidden[keep] @ weight.T, targets[keep])

    def bound(self, rate: float, num: int) -> float:
        """Milliseconds of the products at so many operations a second."""
        _, width, ids = SHAPES[self.shape]
        return 2e3 * num * width * ids * (3 if self.trained else 2) / rate


def synchronize(hardware: Hardware) -> None:
    if hardware.is_gpu:
        torch.cuda.synchronize()


def measure(
    run: Callable[..., Tensor],
    given: tuple[Tensor, Tensor, Tensor],
    num: int,
    repeats: int,
    hardware: Hardware,
) -> tuple[float, float]:
    """Median milliseconds, and MiB above what was there before."""
    times = []
    for _ in range(2 + repeats):
        for leaf in given[:2]:
            leaf.grad = None
        synchronize(hardware)
        forget_peak(hardware)
        before = torch.cuda.memory_allocated() if hardware.is_gpu else read_peak_bytes(hardware)
        start = time.perf_counter()
        (run(*given, num) / max(1, num)).backward()
        synchronize(hardware)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:]), (read_peak_bytes(hardware) - before) / 2**20


def compare(cell: Cell, given: tuple[Tensor, Tensor, Tensor], num: int) -> str:
    """Losses, and how far gradients are apart."""
    found = []
    for run in (cell.run_plain, cell.run_ours):
        for leaf in given[:2]:
            leaf.grad = None
        loss = run(*given, num) / max(1, num)
        loss.backward()
        found.append((loss.item(), [leaf.grad.float() for leaf in given[:2] if leaf.grad is not None]))
    (plain, theirs), (ours, mine) = found
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(mine, theirs, strict=True))
    assert abs(plain - ours) < 1e-3 * abs(plain), (plain, ours)
    assert error < 2e-2, error
    return f"{plain:.5f} / {ours:.5f}, {error:.1e}"


def measure_rate(device: str, hardware: Hardware) -> float:
    """Operations a second of one large product."""
    size = 8192 if hardware.is_gpu else 512
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        synchronize(hardware)
        start = time.perf_counter()
        left @ left
        synchronize(hardware)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--chunk-rows", default="")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    hardware = probe_hardware()
    shapes = (options.shapes or ("8b,1b" if hardware.is_gpu else "tiny")).split(",")
    sizes = [None, *(int(size) for size in options.chunk_rows.split(",") if size)]
    rate = measure_rate(hardware.device, hardware)
    lines = [
        f"# Head and loss on {hardware.describe()}, torch {torch.__version__}",
        "",
        f"One large product runs at {rate / 1e12:.0f} TFLOP/s. Forward and backward pass, bf16.",
        "",
        "| shape | head | targets | rows at a time | plain ms | ours ms | bound ms | plain MiB | ours MiB "
        "| losses, gradients |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in shapes:
        for trained, share in ((False, 1.0), (False, 0.3), (True, 1.0)):
            for size in sizes:
                cell = Cell(shape, trained, share, size)
                given = cell.build(hardware.device)
                num = int((given[2] != IGNORE).sum())
                parity = compare(cell, given, num)
                plain = measure(cell.run_plain, given, num, options.repeats, hardware)
                ours = measure(cell.run_ours, given, num, options.repeats, hardware)
                lines.append(
                    f"| {shape} | {'trained' if trained else 'frozen'} | {num:,} | {size or 'chosen'} | {plain[0]:.1f} "
                    f"| {ours[0]:.1f} | {cell.bound(rate, num):.1f} | {plain[1]:,.0f} | {ours[1]:,.0f} | {parity} |"
                )
                del given
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
