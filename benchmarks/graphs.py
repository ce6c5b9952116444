"""What a CUDA graph of the forward and backward pass saves of a step, with the kernels of Siredon: small models.

    python benchmarks/graphs.py [--shape 135m|1b] [--tokens 512 2048 8192] [--output FILE]

Whole rows of 1,024 tokens, full fine-tuning in bf16, AdamW fused.  A graph is recorded once for a shape, and played:
nothing is launched from Python but it and the optimizer.  Loss and gradients of both must agree.  `kernels alone`
is what the kernels of a step take by themselves: no step can be shorter.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine import build_loss, fuse_, measure_ahead
from report import write_report
from train import SHAPES

ROW = 1024


def build(shape: dict[str, Any], device: torch.device) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    keys = {name: value for name, value in shape.items() if name != "rope_theta"}
    config = LlamaConfig(
        **{"tie_word_embeddings": True, **keys},
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        use_cache=False,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.train()
    fuse_(model)
    return model


def measure(step: Callable[[], None], repeats: int = 30) -> float:
    """Milliseconds of a step: the median of blocks of five."""
    for _ in range(5):
        step()
    torch.accelerator.synchronize()
    times = []
    for _ in range(repeats // 5):
        began = time.perf_counter()
        for _ in range(5):
            step()
        torch.accelerator.synchronize()
        times.append((time.perf_counter() - began) / 5)
    return 1e3 * statistics.median(times)


def sum_kernels(step: Callable[[], None]) -> float:
    """Milliseconds that the device works in a step."""
    from torch.profiler import ProfilerActivity, profile

    kind = torch.accelerator.current_accelerator().type
    with profile(activities=[ProfilerActivity.CPU, getattr(ProfilerActivity, kind.upper())]) as profiler:
        step()
        torch.accelerator.synchronize()
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e3


def compare(shape: dict[str, Any], num_tokens: int) -> str:
    device = torch.accelerator.current_accelerator()
    module = getattr(torch, device.type)
    model = build(shape, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    row = min(ROW, num_tokens)
    ids = torch.randint(3, shape["vocab_size"], (num_tokens // row, row), device=device)
    positions = torch.arange(row, device=device).expand_as(ids)
    measure_ahead(positions)
    weights = list(model.parameters())
    compute = build_loss(model, num_targets=len(ids) * (row - 1))

    def run() -> torch.Tensor:
        loss = compute(ids, ids, position_ids=positions)
        loss.backward()
        return loss.detach()

    def step() -> None:
        run()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    plain = measure(step)
    kernels = sum_kernels(step)
    print(f"{num_tokens:,} tokens: {plain:.1f} ms a step, {kernels:.1f} ms of kernels", flush=True)
    expected = run()
    gradients = [weight.grad.clone() for weight in weights if weight.grad is not None]
    # A graph adds to gradients that lie where they lay when it was recorded
    side = module.Stream()
    with module.stream(side):
        optimizer.zero_grad(set_to_none=False)
        run()
    torch.accelerator.synchronize()
    graph = module.CUDAGraph()
    optimizer.zero_grad(set_to_none=False)
    with module.graph(graph):
        found = run()

    def play() -> None:
        optimizer.zero_grad(set_to_none=False)
        graph.replay()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    optimizer.zero_grad(set_to_none=False)
    graph.replay()
    apart = max(
        float((weight.grad - wanted).norm() / wanted.norm().clamp(min=1e-12))
        for weight, wanted in zip(weights, gradients, strict=True)
    )
    difference = abs(float(found) - float(expected))
    played = measure(play)
    return (
        f"| {num_tokens:,} | {plain:.1f} | {played:.1f} | {kernels:.1f} | {plain / played:.2f} "
        f"| {difference:.1e} | {apart:.1e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192, 32768])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        f"# CUDA graphs, {options.shape}",
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, `benchmarks/graphs.py`.",
        "",
        "| tokens a step | step, ms | with a graph, ms | kernels alone, ms | times as fast "
        "| loss apart | gradients apart |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for num_tokens in options.tokens:
        try:
            lines.append(compare(SHAPES[options.shape], num_tokens))
        except RuntimeError as error:
            traceback.print_exc()
            lines.append(f"| {num_tokens:,} | {str(error).splitlines()[0]} | | | | | |")
        print(lines[-1], flush=True)
    write_report(lines, options.output)


if __name__ == "__main__":
    main()
