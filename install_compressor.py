"""Builds an environment of its own for llm-compressor, whose pins do not fit beside those of Siredon.

    python install_compressor.py [--into .compressor-env] [--device cpu|gpu]

If a folder of `find-links` (`pip config list`) holds a CPU wheel of torch, that one is taken for a CPU, which saves
gigabytes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from install_vllm import build, run

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
    python = build(options.into, options.device, PACKAGE)
    run([str(python), "-c", "import llmcompressor; print('llm-compressor', llmcompressor.__version__)"])


if __name__ == "__main__":
    main()
