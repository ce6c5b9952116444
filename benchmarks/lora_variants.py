"""LoRA with dropout, with DoRA and on weights in 8 and 4 bits: by the fused kernel, and by PEFT's own modules.

    python benchmarks/lora_variants.py [--only dropout,dora] [--tokens 4096] [--rows 2] [--output FILE.md]

A stack of decoder layers of the 8B Llama 3 with random weights in bf16, and LoRA in fp32 on all linear layers, under
autocast; forward and backward pass, nothing recomputed.  Both sides have the kernels for norms, positions and gated
layers; the one that is measured is `lora_linear`.  First the losses and gradients of both must agree, which those with
dropout cannot: they draw other masks.  On a CPU the sizes are tiny: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from report import write_report
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from siredon.config.sections.kernels import WORDS
from siredon.hardware import Hardware, forget_peak, probe_hardware, read_peak_bytes
from siredon.model.install import install_kernels_
from siredon.model.kernel import Situation

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    title: str
    keys: dict[str, Any] = field(default_factory=dict)
    bits: int | None = None


CASES = {
    "plain": Case("plain LoRA"),
    "dropout": Case("dropout 0.05", {"lora_dropout": 0.05}),
    "dora": Case("DoRA", {"use_dora": True}),
    "dora_dropout": Case("DoRA, dropout 0.05", {"use_dora": True, "lora_dropout": 0.05}),
    "int8": Case("weights in 8 bits", bits=8),
    "int8_dropout": Case("weights in 8 bits, dropout 0.05", {"lora_dropout": 0.05}, 8),
    "nf4_dropout": Case("weights in NF4, dropout 0.05", {"lora_dropout": 0.05}, 4),
}


def round_(model: Any, bits: int, device: str) -> None:
    """Holds the weights of all linear layers as bitsandbytes does."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    from siredon.model.products_8bit import keep_no_inputs_

    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        sizes, data = (module.in_features, module.out_features), module.weight.data.cpu()
        packed: Any
        if bits == 8:
            packed = Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
            packed.weight = Int8Params(data, requires_grad=False, has_fp16_weights=False)
        else:
            packed = Linear4bit(*sizes, bias=False, quant_type="nf4", compute_dtype=data.dtype, device="meta")
            packed.weight = Params4bit(data, quant_type="nf4", requires_grad=False, module=packed)
        model.set_submodule(name, packed.to(device))
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = bits == 8, bits == 4
    keep_no_inputs_(model)


def build(case: Case, num_layers: int, hardware: Hardware) -> Any:
    """The stack with adapters, as after some steps."""
    sizes = (4096, 14336, 32, 8) if hardware.is_gpu else (64, 96, 4, 2)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=sizes[0],
        intermediate_size=sizes[1],
        num_attention_heads=sizes[2],
        num_key_value_heads=sizes[3],
        num_hidden_layers=num_layers,
    )
    torch.manual_seed(0)
    with torch.device(hardware.device):
        model = LlamaModel(config).to(torch.bfloat16)
    if case.bits:
        round_(model, case.bits, hardware.device)
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, **case.keys))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    return adapted.train()


def step(adapted: Any, hidden: Tensor) -> Tensor:
    """Forward and backward pass; the loss."""
    with torch.autocast(hidden.device.type, torch.bfloat16):
        output = adapted(inputs_embeds=hidden, use_cache=False).last_hidden_state
    weights = torch.linspace(-1, 1, output.shape[-1], device=output.device)
    loss = (output.float() * weights).mean(-1).square().mean()
    loss.backward()
    return loss.detach()


def measure(adapted: Any, hidden: Tensor, repeats: int, hardware: Hardware) -> tuple[float, float]:
    """Median milliseconds of a step, and the GiB at its highest."""
    times = []
    for index in range(repeats + 2):
        adapted.zero_grad()
        if hardware.is_gpu:
            torch.cuda.synchronize()
        if index == 2:
            forget_peak(hardware)
        start = time.perf_counter()
        step(adapted, hidden)
        if hardware.is_gpu:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:]), read_peak_bytes(hardware) / 2**30


def compare(case: Case, hardware: Hardware, options: argparse.Namespace) -> str:
    """A row of the table."""
    adapted = build(case, options.layers, hardware)
    width = adapted.config.hidden_size
    shape = (options.rows, options.tokens, width)
    hidden = torch.randn(shape, device=hardware.device, dtype=torch.bfloat16).requires_grad_()
    base = adapted.get_base_model()
    results = []
    for fused in (False, True):
        wanted = dict.fromkeys(WORDS, False) | dict.fromkeys(("rms_norm", "rope", "glu"), True)
        installed = install_kernels_(base, wanted | {"lora_linear": fused}, Situation(hardware))
        (row,) = [row for row in installed.rows if row.name == "lora_linear"]
        assert (row.choice == f"{7 * options.layers} layers") == fused, row
        adapted.zero_grad()
        loss = float(step(adapted, hidden))
        gradients = [weight.grad.clone() for weight in adapted.parameters() if weight.grad is not None]
        results.append((loss, gradients, measure(adapted, hidden, options.repeats, hardware)))
        installed.changes.undo()
    (plain, theirs, before), (ours, mine, after) = results
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(mine, theirs, strict=True))
    drops = "lora_dropout" in case.keys
    assert drops or abs(ours - plain) < 0.02 * abs(plain), (ours, plain)
    tokens = options.rows * options.tokens
    agree = "other masks" if drops else f"{abs(ours / plain - 1):.1e}, {error:.1e}"
    speed = f"{before[0] / after[0]:.2f} | {tokens / after[0] * 1e3:,.0f}"
    memory = f"{before[1]:.1f} | {after[1]:.1f}"
    return f"| {case.title} | {before[0]:.1f} | {after[0]:.1f} | {speed} | {memory} | {agree} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    hardware = probe_hardware()
    options.tokens = options.tokens or (4096 if hardware.is_gpu else 32)
    lines = [
        f"# Variants of LoRA by the fused kernel and by PEFT, {hardware.describe()}, torch {torch.__version__}",
        "",
        f"{options.layers} layers, {options.rows} rows of {options.tokens:,} tokens, r 16; medians of "
        f"{options.repeats} steps, both sides one after the other on the same model.",
        "",
        "| LoRA | PEFT ms | fused ms | times as fast | fused tokens/s | PEFT GiB | fused GiB | losses, gradients |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in options.only.split(","):
        lines.append(compare(CASES[name], hardware, options))
        print(lines[-1], flush=True)
        gc.collect()
        if hardware.is_gpu:
            torch.cuda.empty_cache()
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
