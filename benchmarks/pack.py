"""Time and fill of packing, beside placing rows one by one and beside first-fit in the order of the rows.

python benchmarks/pack.py [--runs 5] [--output benchmarks/results/pack_cpu_DATE.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report import write_report

from siredon.config.sections.packing import PackingSection
from siredon.data.pack import Indices, Packs, build_packs

Method = Callable[[], Packs | list[int]]

#: Rows, tokens per pack, shortest and longest row.
CASES = (
    (100_000, 4_096, 20, 2_000),
    (100_000, 32_768, 20, 2_000),
    (100_000, 8_192, 20, 200),
    (100_000, 32_768, 20, 200),
    (1_000_000, 4_096, 20, 2_000),
)


def place_one_by_one(lengths: Indices, capacity: int) -> list[int]:
    """Best-fit decreasing, row by row: the tokens of each pack.  What `build_packs` must agree with."""
    held: list[int] = []
    packs: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for length in np.sort(lengths)[::-1].tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = packs[room].pop()
            if not packs[room]:
                rooms ^= 1 << room
            held[pack] += length
        else:
            room, pack = capacity, len(held)
            held.append(length)
        packs[room - length].append(pack)
        if room > length:
            rooms |= 1 << (room - length)
    return held


def first_fit(lengths: Indices, capacity: int) -> list[int]:
    """First-fit in the order of the rows, not sorted, by a tree of the most room of any pack below."""
    size = 1 << len(lengths).bit_length()
    most = [capacity] * (2 * size)
    used = 0
    for length in lengths.tolist():
        node = 1
        while node < size:
            node *= 2
            if most[node] < length:
                node += 1
        most[node] -= length
        used = max(used, node - size + 1)
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
    return [capacity - room for room in most[size : size + used]]


def measure(methods: dict[str, Method], runs: int) -> dict[str, float]:
    """Median seconds of each, in turn, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(runs):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def compare(case: tuple[int, int, int, int], runs: int) -> list[str]:
    """Lines of the table for one case."""
    num_rows, capacity, shortest, longest = case
    lengths = np.random.default_rng(0).integers(shortest, longest + 1, num_rows)
    total = int(lengths.sum())

    def pack(**keys: object) -> Packs:
        return build_packs(lengths, capacity, PackingSection(**keys))

    whole = {"sample_packing_group_size": num_rows}
    ours = pack(**whole)
    slow = place_one_by_one(lengths, capacity)
    assert sorted(ours.count_tokens(lengths).tolist()) == sorted(slow)
    methods: dict[str, Method] = {
        "best fit, all rows": lambda: pack(**whole),
        "best fit, groups of 10,000": lambda: pack(sample_packing_group_size=10_000),
        "best fit, at most 200 rows a pack": lambda: pack(**whole, sample_packing_bin_size=200),
        "in order": lambda: pack(sample_packing_sequentially=True),
        "best fit, row by row": lambda: place_one_by_one(lengths, capacity),
        "first fit, not sorted": lambda: first_fit(lengths, capacity),
    }
    found = measure(methods, runs)
    num_packs = {name: len(method()) for name, method in methods.items()}
    rows = f"{num_rows:,} of {shortest:,} to {longest:,}"
    return [
        f"| {rows} | {capacity:,} | {name} | {num_packs[name]:,} "
        f"| {100 * total / (num_packs[name] * capacity):.3f} "
        f"| {found[name]:.3f} | {found[name] / found['best fit, all rows']:.1f} |"
        for name in methods
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        "# Packing: time and fill",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}. Random lengths (`default_rng(0)`); median of {options.runs} runs. The ratio is to "
        "best fit over all rows. Row by row, which keeps only the tokens of each pack, gives the same ones.",
        "",
        "| rows | tokens a pack | method | packs | % full | s | ratio |",
        "|---|---|---|---|---|---|---|",
        *(line for case in CASES for line in compare(case, options.runs)),
    ]
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
