"""Models x adapters x weights: what each combination does, and the page that says so.

    python -m tests.matrix docs/matrix.md       (or `make matrix`)

Each cell is a configuration.  `siredon check` refuses it, or the model is built and trained a few steps on the CPU.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.families import FAMILIES, write_family

from siredon.config.load import check_config
from siredon.config.schema import Config
from siredon.errors import ModelError
from siredon.hardware import probe_hardware
from siredon.model.build import build_model
from siredon.model.precision import resolve_precision
from siredon.model.tokenizer import load_tokenizer

_LINEAR = "lora_target_linear: true\n"
_LORA = f"adapter: lora\nlora_r: 4\nlora_alpha: 8\n{_LINEAR}"
ADAPTERS = {
    "none": "",
    "`lora`": _LORA,
    "`qlora`": _LORA.replace(": lora", ": qlora"),
    "DoRA": _LORA + "peft_use_dora: true\n",
    **{
        f"`{word}`": f"adapter: {word}\n{_LINEAR}{more}"
        for word, more in {
            "oft": "",
            "boft": "peft: {boft_block_size: 4}\n",
            "vera": "peft: {r: 8}\n",
            "ia3": "",
            "lokr": "peft: {r: 4, alpha: 8}\n",
            "hra": "peft: {r: 4}\n",
            "fourierft": "",
            "miss": "peft: {r: 4}\n",
            "delora": "peft: {r: 4}\n",
            "randlora": "peft: {r: 4}\n",
        }.items()
    },
    "`llama-adapter`": "adapter: llama-adapter\npeft: {adapter_len: 4, adapter_layers: 2}\n",
}
WEIGHTS = {
    "as they are": "",
    "`load_in_4bit` (NF4)": "load_in_4bit: true\n",
    "`load_in_8bit`": "load_in_8bit: true\n",
    "`load_in_torchao: int8`": "load_in_torchao: int8\n",
    "`qat` (int8 activations, int4 weights)": "qat: {activation_dtype: int8, weight_dtype: int4}\n",
}
#: What a family needs besides; PEFT has no LoRA for the convolution of a Mamba block and what follows it.
_FAMILY = {
    "gemma2": "attn_implementation: eager\n",
    "gpt_oss": "attn_implementation: eager\n",
    "falcon_h1": "lora_exclude_modules: [out_proj]\n",
}
_LEAST = """learning_rate: 1e-2
datasets:
  - path: rows.jsonl
    type: alpaca
bf16: false
"""
TRAINS = "trains"
#: An adapter that begins behind a closed gate takes longer to have an effect.
_STEPS = {"`llama-adapter`": 16}


@dataclass(frozen=True)
class Cell:
    """One combination."""

    model: str
    weights: str
    adapter: str

    def text(self, folder: Path) -> str:
        """Its configuration."""
        besides = (
            "" if self.model == "falcon_h1" and not ADAPTERS[self.adapter] else _FAMILY.get(self.model, "")
        )
        return f"base_model: {folder}\n{_LEAST}{ADAPTERS[self.adapter]}{WEIGHTS[self.weights]}{besides}"


def try_cell(cell: Cell, folder: Path, scratch: Path) -> str:
    """`trains`, or the reason why not: the codes of `check`, or what is wrong with this model.

    Raises:
        AssertionError: It trains, and the loss does not fall.
    """
    path = scratch / "cell.yml"
    path.write_text(cell.text(folder))
    checked = check_config(str(path))
    if checked.config is None:
        return " ".join(sorted({found.code for found in checked.diagnostics if found.severity == "error"}))
    try:
        model = build(checked.config)
    except ModelError as error:
        return error.message.replace(str(folder), "MODEL")
    losses = train_steps(model, _STEPS.get(cell.adapter, 4))
    assert losses[-1] < losses[0], f"{cell}: the loss does not fall: {losses}"
    return TRAINS


def build(config: Config) -> Any:
    """The model that `siredon train` would train."""
    hardware = probe_hardware()
    precision = resolve_precision(config.precision, hardware, has_adapter=config.adapter.adapter is not None)
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    return build_model(config, tokenizer, (2,), precision, hardware).model


def train_steps(model: Any, num_steps: int) -> list[float]:
    """Losses of a few steps on one batch."""
    ids = torch.arange(48).reshape(2, 24) * 7 % 500
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(num_steps):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def try_model(model: str, folder: Path, scratch: Path) -> dict[Cell, str]:
    """All cells of a model."""
    cells = [Cell(model, weights, adapter) for weights in WEIGHTS for adapter in ADAPTERS]
    return {cell: try_cell(cell, folder, scratch) for cell in cells}


def show_page(outcomes: dict[Cell, str]) -> str:
    """The page, as Markdown."""
    reasons: list[str] = []
    parts = [
        "# What works together",
        "Models, adapters and weights in few bits, each combination tried on the CPU: a tiny model of the family\n"
        "with random weights, a few steps, and the loss must fall. ✓ trains; `SD…` is refused by `siredon check`\n"
        "before anything loads, for the reason behind the link; a number is refused while the model is built, with\n"
        "the message below. `make matrix` writes this page, and a test holds it to what it says.",
    ]
    for weights in WEIGHTS:
        parts.append(f"## Weights: {weights}")
        parts.append("\n".join(_rows(weights, outcomes, reasons)))
    parts.append("## Refused while the model is built")
    parts.append("\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)))
    codes = sorted(
        {code for outcome in outcomes.values() if outcome.startswith("SD") for code in outcome.split()}
    )
    parts.append("\n".join(f"[{code}]: reference/rules.md#{code.lower()}" for code in codes))
    return "\n\n".join(parts) + "\n"


def _rows(weights: str, outcomes: dict[Cell, str], reasons: list[str]) -> Iterator[str]:
    yield "| model | " + " | ".join(ADAPTERS) + " |"
    yield "|---" * (len(ADAPTERS) + 1) + "|"
    for model in FAMILIES:
        shown = [_show(outcomes[Cell(model, weights, adapter)], reasons) for adapter in ADAPTERS]
        yield f"| {model} | " + " | ".join(shown) + " |"


def _show(outcome: str, reasons: list[str]) -> str:
    if outcome == TRAINS:
        return "✓"
    if outcome.startswith("SD"):
        return " ".join(f"[{code}]" for code in outcome.split())
    if outcome not in reasons:
        reasons.append(outcome)
    return str(reasons.index(outcome) + 1)


def write_page(path: Path, folder_of: Callable[[str], Path], scratch: Path) -> None:
    """Tries every cell, and writes the page."""
    outcomes: dict[Cell, str] = {}
    for model in FAMILIES:
        outcomes |= try_model(model, folder_of(model), scratch)
    path.write_text(show_page(outcomes))


if __name__ == "__main__":
    from tests.conftest import build_tokenizer

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokenizer = build_tokenizer()
        write_page(Path(sys.argv[1]), lambda model: write_family(model, scratch / model, tokenizer), scratch)
