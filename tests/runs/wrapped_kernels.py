"""One of two ranks: gradients through fused kernels, wrapped for several processes, against those of the plain model.

    torchrun --nproc-per-node 2 -m tests.runs.wrapped_kernels fp32|bf16

Rank 0 prints, for each kind of training and wrapper, how far all gradients together are from those of the plain model
in fp32, over both ranks' rows at once, as a part of their length; and the same for the plain model in that format.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from siredon.config.sections.kernels import WORDS
from siredon.config.sections.memory import MemorySection
from siredon.hardware import probe_hardware
from siredon.model.head import catch_hidden
from siredon.model.install import install_kernels_
from siredon.model.kernel import Situation
from siredon.model.recompute import recompute_activations_
from siredon.ops.linear_cross_entropy import linear_cross_entropy

NUM_IDS, LENGTH = 96, 48


def build(device: Any, dtype: torch.dtype, *, lora: bool, fuses: bool) -> Any:
    """A small Llama, each time with the same numbers."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": NUM_IDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    base = LlamaForCausalLM(config)
    model: Any = base
    if lora:
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(base, LoraConfig(r=4, target_modules=names))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
    model = model.to(device, dtype).train()
    if fuses:
        wanted: dict[str, bool | None] = dict.fromkeys(WORDS, True)
        installed = install_kernels_(base, wanted, Situation(hardware=probe_hardware()))
        assert "rms_norm, rope, glu, lora_linear" in installed.describe(), installed.rows
        recompute_activations_(base, MemorySection(gradient_checkpointing=0.5))
    return model


def measure(model: Any, base: Any, ids: Tensor, *, fuses: bool) -> Tensor:
    """The mean loss; of a fused model through the head in chunks."""
    targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100).flatten()
    if not fuses:
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets)
    head = base.get_output_embeddings()
    with catch_hidden(head) as caught:
        model(input_ids=ids, use_cache=False)
    weight = head.weight
    if isinstance(weight, torch.distributed.tensor.DTensor):  # As sharded weights fall back in a run
        weight = weight.full_tensor()
    return linear_cross_entropy(caught.hidden[0].flatten(0, 1), weight, targets) / (targets != -100).sum()


def wrap(model: Any, base: Any, kind: str) -> Any:
    """Copies that average gradients, or weights in shards, each layer a group of its own."""
    if kind == "ddp":
        return DistributedDataParallel(model, broadcast_buffers=False)
    from torch.distributed.fsdp import fully_shard

    for layer in base.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def read_gradients(model: Any) -> dict[str, Tensor]:
    """Whole ones, in fp64, by the names of the model without a wrapper."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            grad = weight.grad
            whole = grad.full_tensor() if isinstance(grad, torch.distributed.tensor.DTensor) else grad
            found[name.removeprefix("module.")] = whole.double()
    return found


def distance(found: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Of all gradients together, as a part of their length."""
    assert found.keys() == right.keys(), found.keys() ^ right.keys()
    apart = sum(float((found[name] - value).square().sum()) for name, value in right.items())
    return float((apart / sum(float(value.square().sum()) for value in right.values())) ** 0.5)


def main() -> None:
    hardware = probe_hardware()
    dist.init_process_group("nccl" if hardware.is_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device(hardware.device, rank) if hardware.is_gpu else torch.device("cpu")
    if hardware.is_gpu:
        torch.accelerator.set_device_index(rank)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[1]]
    rows = torch.randint(3, NUM_IDS, (2, LENGTH), generator=torch.Generator().manual_seed(1)).to(device)
    result: dict[str, dict[str, float]] = {}
    for lora in (False, True):
        gradients = {}
        for format_ in (torch.float32, dtype):
            plain = build(device, format_, lora=lora, fuses=False)
            measure(plain, None, rows, fuses=False).backward()
            gradients[format_] = read_gradients(plain)
        right = gradients[torch.float32]
        distances = {"plain": distance(gradients[dtype], right)}
        for kind in ("ddp", "fsdp"):
            model = build(device, dtype, lora=lora, fuses=True)
            base = model.get_base_model() if lora else model
            wrapped = wrap(model, base, kind)
            measure(wrapped, base, rows[rank : rank + 1], fuses=True).backward()
            distances[kind] = distance(read_gradients(wrapped), right)
        result["lora" if lora else "full"] = distances
    if rank == 0:
        sys.stdout.write(f"RESULT {json.dumps(result)}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
