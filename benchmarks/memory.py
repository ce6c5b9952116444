"""Every way to save memory, on one GPU: are gradients those of the plain model, how high is the peak, how long a step.

    python benchmarks/memory.py [--shape 1b|tiny] [--tokens 8192] [--output benchmarks/results/memory_DEVICE_DATE.md]

A Llama of random weights, once with LoRA and once trained whole, in bf16.  Each line of the table is the same model,
built anew from the same seed and changed by the keys of that line; the loss is that of the last tokens only, so that
logits do not hide what the layers keep.  The difference is that of the whole gradient, relative to its norm: two
runs of the plain model differ too, by what attention adds up in another order.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from siredon.config.load import load_config
from siredon.config.schema import Config
from siredon.errors import SiredonError
from siredon.hardware import probe_hardware
from siredon.model.adapt import attach_adapter_
from siredon.model.attention import check_attention
from siredon.model.memory import trade_memory_
from siredon.model.precision import resolve_precision, set_formats_

SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
ON = {"gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain again": {},
    "gradient_checkpointing": ON,
    "use_reentrant": {**ON, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "gradient_checkpointing: 0.5": {"gradient_checkpointing": 0.5},
    "every_n_layers: 4": {**ON, "gradient_checkpointing_every_n_layers": 4},
    "selective_checkpointing": {**ON, "selective_checkpointing": True},
    "activation_offloading": {**ON, "activation_offloading": True},
    "legacy": {**ON, "activation_offloading": "legacy"},
    "hidden_states": {**ON, "activation_offloading": "hidden_states"},
    "hidden_states, selective": {
        **ON,
        "activation_offloading": "hidden_states",
        "selective_checkpointing": True,
    },
    "disk": {**ON, "activation_offloading": "disk"},
    "layer_offloading": {"layer_offloading": True},
    "layer_offloading, recomputed": {**ON, "layer_offloading": True},
    "layer_offloading, activation_offloading": {
        **ON,
        "layer_offloading": True,
        "activation_offloading": True,
    },
    "flex_attention": {"attn_implementation": "flex_attention"},
    "fp32_norms": {"fp32_norms": True},
    "bfloat16": {"bfloat16": True, "bf16": None},
    "torch_compile": {"torch_compile": True},
    "torch_compile, recomputed": {**ON, "torch_compile": True},
    "torch_compile, activation_offloading": {**ON, "torch_compile": True, "activation_offloading": True},
}


@dataclass(frozen=True)
class Measured:
    gradient: torch.Tensor
    peak_gib: float
    base_gib: float
    seconds: float
    first_seconds: float


def load(folder: Path, keys: dict[str, Any]) -> Config:
    values = {
        "base_model": "some/model",
        "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
        "learning_rate": 1e-4,
        "bf16": True,
        "output_dir": str(folder / "out"),
        **keys,
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return load_config(str(path))[0]


def start_peak() -> float:
    """GiB that are held now; the peak is counted from here."""
    if not torch.accelerator.is_available():
        return 0.0
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    return torch.accelerator.memory_allocated() / 2**30


def read_peak() -> float:
    """The most GiB held since."""
    if not torch.accelerator.is_available():
        return 0.0
    torch.accelerator.synchronize()
    return torch.accelerator.max_memory_allocated() / 2**30


def measure(config: Config, shape: dict[str, int], num_tokens: int) -> Measured:
    hardware = probe_hardware()
    device = torch.device(hardware.device)
    has_adapter = config.adapter.adapter is not None
    precision = resolve_precision(config.precision, hardware, has_adapter=has_adapter)
    check_attention(config.attention, precision, hardware)
    settings = transformers.LlamaConfig(**shape, max_position_embeddings=2 * num_tokens)
    torch.manual_seed(0)
    with device:
        base: Any = transformers.AutoModelForCausalLM.from_config(
            settings, dtype=precision.weights, attn_implementation=config.attention.attn_implementation
        )
    base.train()
    model = attach_adapter_(base, config.adapter, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    set_formats_(model, base, config.precision, precision)
    trade_memory_(model, base, config, hardware)
    model.to(device)
    ids = torch.randint(
        0, shape["vocab_size"], (1, num_tokens), generator=torch.Generator().manual_seed(1)
    ).to(device)
    # Two documents, as packing lays them
    half = torch.arange(num_tokens // 2, device=device)
    positions = torch.cat([half, half])[None]
    num_kept = min(256, num_tokens // 2)
    seconds = []
    for _ in range(4):
        model.zero_grad(set_to_none=True)
        gc.collect()
        began_gib = start_peak()
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision.autocast is not None):
            logits = model(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=num_kept
            ).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, -num_kept + 1 :])
        loss.backward()
        peak_gib = read_peak()
        seconds.append(time.perf_counter() - began)
        del logits, loss
    gradient = torch.cat([w.grad.flatten().float().cpu() for w in model.parameters() if w.grad is not None])
    return Measured(gradient, peak_gib, began_gib, statistics.median(seconds[1:]), seconds[0])


def run_cases(options: argparse.Namespace, folder: Path, adapter: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    plain: Measured | None = None
    for name, keys in CASES.items():
        if "layer_offloading" in keys and not adapter:
            continue
        if options.only and options.only not in name and name != "plain":
            continue
        torch.compiler.reset()
        gc.collect()
        start_peak()
        try:
            found = measure(load(folder, {**adapter, **keys}), SHAPES[options.shape], options.tokens)
        except (
            RuntimeError,
            SiredonError,
            AssertionError,
        ) as error:  # the other lines are wanted all the same
            lines.append(
                f"| {name} | failed: {type(error).__name__}: {str(error).splitlines()[0][:150]} | | | | |"
            )
            print(lines[-1], flush=True)
            continue
        plain = plain or found
        difference = ((found.gradient - plain.gradient).norm() / plain.gradient.norm()).item()
        lines.append(
            f"| {name} | {difference:.1e} | {found.base_gib:.2f} | {found.peak_gib:.2f} "
            f"| {1000 * found.seconds:.0f} | {found.first_seconds:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--only", help="only cases with this in their name")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    columns = ("case", "gradient differs by", "GiB before", "peak GiB", "ms a step", "first step, s")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    parts = [
        "# Memory: gradients, peak and time of every way to save it",
        f"{datetime.date.today()}, {probe_hardware().name}; torch {torch.__version__}, transformers "
        f"{transformers.__version__}. Llama {options.shape}, random weights, bf16, {options.tokens:,} tokens in one "
        "row of two documents, loss of the last ones. The difference is relative to the norm of the plain gradient.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for title, adapter in (("LoRA r16", LORA), ("Every weight", {})):
            print(title, flush=True)
            parts += [f"## {title}", "\n".join([head, *run_cases(options, Path(folder), adapter)])]
    print(f"{time.perf_counter() - began:.0f} s")
    text = "\n\n".join(parts) + "\n"
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
