"""Installs Siredon from this checkout into an environment, with the tested versions.

    python install.py [--python .venv/bin/python] [--extras dev]

A package that is already there is never made older: its line of constraints.txt is left out.
torch comes as pip gives it on this machine: a CPU or a CUDA build.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def normalize(name: str) -> str:
    return name.lower().replace("_", "-")


def installed_packages(python: str) -> set[str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {normalize(row["name"]) for row in json.loads(listed.stdout)}


def constraints_for(installed: set[str]) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if normalize(line.partition("==")[0]) not in installed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="the environment's python")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, comma-separated")
    options = parser.parse_args()
    what = f"{ROOT}[{options.extras}]" if options.extras else str(ROOT)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(constraints_for(installed_packages(options.python)))
        constraints.flush()
        command = [options.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*command, "-c", constraints.name, "-e", what], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
