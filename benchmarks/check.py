"""Time and memory of `siredon check` on a file of 100 lines, as a whole process, beside importing torch alone.

python benchmarks/check.py [--runs 15] [--output benchmarks/results/check_cpu_DATE.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import write_report

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples/smollm2/identity-lora-cpu.yml"
SIREDON = str(Path(sys.executable).with_name("siredon"))


def write_file(folder: Path) -> Path:
    """The example, its keys and comments, made 100 lines long."""
    lines = EXAMPLE.read_text().splitlines()
    lines += [f"# line {number}" for number in range(len(lines) + 1, 101)]
    path = folder / "config.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds of a process, and the most memory it held, in MiB."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    assert os.waitstatus_to_exitcode(status) == 0, command
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_file(Path(folder)))
        commands = {
            "siredon check CONFIG": [SIREDON, "check", path],
            "siredon --help": [SIREDON, "--help"],
            "siredon config show CONFIG": [SIREDON, "config", "show", path],
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.runs):  # in turn, so that a busy moment hits all of them
            for name, command in commands.items():
                found[name].append(measure(command))
    torch_seconds = statistics.median(seconds for seconds, _ in found["python -c 'import torch'"])
    lines = [
        "# `siredon check`: time and memory",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        f"A file of 100 lines; whole processes, in turn, {options.runs} times each.",
        "",
        "| process | median s | slowest s | of `import torch` | MiB |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        seconds = [run[0] for run in runs]
        median = statistics.median(seconds)
        lines.append(
            f"| `{name}` | {median:.3f} | {max(seconds):.3f} | {median / torch_seconds:.2f} "
            f"| {max(run[1] for run in runs):.0f} |"
        )
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
