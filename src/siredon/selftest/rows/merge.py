"""Row 17: a merged model has the adapter's change in every weight that it targets, and says what the adapter says.

Bugs of record: peft#1043, #2586; unsloth#3091; mlx-tune#15.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.truth import compare_tensors
from siredon.selftest.whole import LORA, Run, explain_runs, read_weights

_FOUR_BITS = "4-bit"
_KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"peft_use_rslora": True},
    "dora": {"peft_use_dora": True},
    _FOUR_BITS: {"adapter": "qlora", "load_in_4bit": True},
}
_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_IDS = torch.arange(5, 61)[None]


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Kinds of adapters, and one beside weights of 4 bits."""
    return tuple(Cell(case=case) for case in (("dora",) if grid.is_quick else _KINDS))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds merged weights against the formula in fp64, and logits against those of base and adapter."""
    reason = explain_runs(rig)
    if cell.case == _FOUR_BITS and find_spec("bitsandbytes") is None:
        reason = "bitsandbytes is not installed: pip install 'siredon[quantization]'"
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    from transformers import AutoModelForCausalLM

    trained = Run(rig, **{**LORA, **_KINDS[cell.case], "learning_rate": 0.05})
    adapter = read_weights(trained.train())
    folder = trained.merge()
    base = read_weights(rig.write_model("llama"))
    merged = read_weights(folder)
    yield "weights fewer or more than the base has", float(len(base.keys() ^ merged.keys())), 0.0
    if cell.case == _FOUR_BITS:
        base = {**base, **_round_to_4_bits(base, rig.hardware.device)}
    wanted = {name: _add(name, weight, adapter, cell.case) for name, weight in base.items()}
    yield "merged weights against the formula", compare_tensors(merged, wanted), FP32
    targets = [name for name in base if name.endswith(tuple(f"{layer}.weight" for layer in _LAYERS))]
    still = [name for name in targets if torch.equal(merged[name], base[name])]
    yield "targets that the adapter did not change", float(len(still) + abs(len(targets) - 14)), 0.0
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = _load_adapted(rig, trained.output, base)
    yield "logits, merged against adapter", _compare_logits(model, adapted), FP32


def _add(name: str, weight: torch.Tensor, adapter: Mapping[str, torch.Tensor], case: str) -> torch.Tensor:
    """The sum in fp64: W + s B A; for DoRA its rows, stretched to the lengths that were learned."""
    layer = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{layer}.lora_A.weight" not in adapter:
        return weight.double()
    down, up = adapter[f"{layer}.lora_A.weight"].double(), adapter[f"{layer}.lora_B.weight"].double()
    rank, alpha = LORA["lora_r"], LORA["lora_alpha"]
    scale: float = alpha / math.sqrt(rank) if case == "rslora" else alpha / rank
    total: torch.Tensor = weight.double() + scale * up @ down
    if case != "dora":
        return total
    lengths = adapter[f"{layer}.lora_magnitude_vector"].double()
    stretched: torch.Tensor = total * (lengths / total.norm(dim=1))[:, None]
    return stretched


def _round_to_4_bits(base: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """The weights of the layers as a 4-bit base has them: rounded to NF4 and widened, where the run rounds them.

    Elsewhere they would be others: on a CPU bitsandbytes takes the second nearest scale for one block in a thousand.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    rounded = {}
    for name, weight in base.items():
        if name.endswith(tuple(f"{layer}.weight" for layer in _LAYERS)):
            packed, state = quantize_4bit(weight.to(device), quant_type="nf4", compress_statistics=True)
            rounded[name] = dequantize_4bit(packed, state).cpu()
    return rounded


def _load_adapted(rig: Rig, adapter: Path, base: Mapping[str, torch.Tensor]) -> Any:
    """Base and adapter, as transformers and PEFT alone load them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(rig.write_model("llama"), dtype=torch.float32)
    model.load_state_dict(dict(base))
    return PeftModel.from_pretrained(model, str(adapter))


@torch.no_grad()
def _compare_logits(merged: Any, adapted: Any) -> float:
    found = merged.eval()(input_ids=_IDS, use_cache=False).logits
    wanted = adapted.eval()(input_ids=_IDS, use_cache=False).logits
    return compare_tensors({"logits": found}, {"logits": wanted})


ROW = Row(
    number=17,
    proves="A merged model is the base plus the adapter's whole change, and answers as the adapter does.",
    cells=list_cells,
    run=run,
)
