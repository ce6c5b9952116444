"""Builds an environment of its own for llm-compressor, whose pins do not fit beside those of Siredon.

    python install_compressor.py [--into .compressor-env] [--device cpu|gpu]

If a folder of `find-links` (`pip config list`) holds a CPU wheel of torch, that one is taken for a CPU, which saves
gigabytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from install_vllm import find_cpu_wheel, pip, run

PACKAGE = "llmcompressor==0.14.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", default=".compressor-env", type=Path, help="folder of the environment")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="gpu" if shutil.which("nvidia-smi") else "cpu"
    )
    options = parser.parse_args()
    python = options.into / "bin" / "python"
    run([sys.executable, "-m", "venv", str(options.into)])
    run([*pip(python), "install", "--quiet", "--upgrade", "pip"])
    wheel = find_cpu_wheel(python) if options.device == "cpu" else None
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(f"torch=={wheel}\n" if wheel else "")
        constraints.flush()
        run([*pip(python), "install", "--quiet", "-c", constraints.name, PACKAGE])
    run([str(python), "-c", "import llmcompressor; print('llm-compressor', llmcompressor.__version__)"])


if __name__ == "__main__":
    main()
