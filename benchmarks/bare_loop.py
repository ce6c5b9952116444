"""The bare loop that `siredon train` is held against: the same config, model, kernels and packs, and nothing around.

    python benchmarks/bare_loop.py CONFIG [--steps 24] [--warmup 8]

Prints one line of JSON: useful tokens/s (median over a few steps at a time), memory by part in GiB, and the loss of the
first step.  The packs are those of the first epoch, in the order of the trainer; they lie on the device before the
clock starts.  It needs a GPU.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch


def build(path: str) -> tuple[Any, Any, Any, list[Any]]:
    """Config, model, its base, and batches on the device, of which each says how many tokens are no padding."""
    from siredon.config.load import load_config
    from siredon.data.prepare_run import prepare_run
    from siredon.data.prompt import set_prompting_
    from siredon.hardware import probe_hardware
    from siredon.model.build import build_model
    from siredon.model.precision import resolve_precision
    from siredon.model.quiet import quiet_libraries
    from siredon.model.tokenizer import load_tokenizer
    from siredon.train.sampler import ShuffledSampler

    quiet_libraries()
    config, _ = load_config(path)
    hardware = probe_hardware()
    precision = resolve_precision(config.precision, hardware, has_adapter=config.adapter.adapter is not None)
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    prepared = prepare_run(config, tokenizer)
    stop_ids = set_prompting_(tokenizer, config).stop_ids
    built = build_model(config, tokenizer, stop_ids, precision, hardware)
    built.model.to(hardware.device)
    order = iter(ShuffledSampler(prepared.train.packs, config.batch.seed, lambda: 0))
    size = config.batch.micro_batch_size

    def collate() -> Iterator[Any]:
        while len(places := list(islice(order, size))) == size:
            batch = prepared.collator([prepared.train[place] for place in places])
            count = int(batch["num_tokens"].sum())
            yield {name: value.to(hardware.device) for name, value in batch.items()} | {"count": count}

    return config, built.model, built.base, list(islice(collate(), 64))


def build_step(model: Any, base: Any, rate: float) -> tuple[Callable[[Any], torch.Tensor], dict[str, int]]:
    """One optimizer step, and the memory that its parts have taken, in bytes; filled by each step."""
    from siredon.model.attend import measure_ahead
    from siredon.model.head import catch_hidden
    from siredon.ops.linear_cross_entropy import linear_cross_entropy

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
    memory: dict[str, int] = {"weights": torch.accelerator.memory_allocated()}
    head = base.get_output_embeddings()

    def step(batch: Any) -> torch.Tensor:
        measure_ahead(batch["position_ids"])
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        with catch_hidden(head) as caught:
            model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
        (hidden,) = caught.hidden
        targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100).flatten()
        total = linear_cross_entropy(hidden.flatten(0, 1), head.weight.to(hidden.dtype), targets)
        loss = total / (targets != -100).sum()
        del hidden
        caught.hidden.clear()
        kept = torch.accelerator.memory_allocated()
        memory["forward pass at most"] = torch.accelerator.max_memory_allocated() - before
        memory["kept by the forward pass"] = kept - before
        torch.accelerator.reset_peak_memory_stats()
        loss.backward()
        memory["backward pass beyond that"] = torch.accelerator.max_memory_allocated() - kept
        memory["gradients"] = torch.accelerator.memory_allocated() - before
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        memory["optimizer"] = torch.accelerator.memory_allocated() - memory["weights"]
        return loss.detach()

    return step, memory


def profile(run: Callable[[], Any]) -> None:
    """Prints functions by the time that the CPU spends in them."""
    profiler = cProfile.Profile()
    profiler.runcall(run)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(45)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--log", type=int, default=4, help="steps between two looks at the clock")
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="where the CPU spends the steps, to stderr")
    options = parser.parse_args()
    config, model, base, batches = build(options.config)
    step, memory = build_step(model, base, config.optimizer.learning_rate)
    speeds, losses = [], []
    for first in range(0, options.steps, options.log):
        block = [batches[number % len(batches)] for number in range(first, first + options.log)]
        torch.accelerator.synchronize()
        began = time.perf_counter()
        losses += [step(batch) for batch in block]
        torch.accelerator.synchronize()
        if first >= options.warmup:
            speeds.append(sum(batch["count"] for batch in block) / (time.perf_counter() - began))
    if options.profile:
        profile(lambda: [step(batch) for batch in batches[:4]])
    result = {
        "tokens_per_second": statistics.median(speeds),
        "loss": float(losses[0]),
        "memory": {name: value / 2**30 for name, value in memory.items()},
    }
    print("RESULT", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
