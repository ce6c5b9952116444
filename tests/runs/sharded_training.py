"""Started as two processes: tiny models under FSDP, a few steps, and their weights as each program writes them.

Into the folder argv[1] go checkpoints in pieces; `<name>.pt`, the same weights gathered in the run, is what they must
come to.  argv[2] is the folder of a tiny model whose embeddings are tied.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import save_fsdp_model
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullStateDictConfig,
    FullyShardedDataParallel,
    ShardedStateDictConfig,
    StateDictType,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM


def train(model: Any, blocks: Any) -> torch.optim.Optimizer:
    """Shards, and takes two steps."""
    mesh = init_device_mesh("cpu", (2,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(isinstance(weight, DTensor) for weight in weights)
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    take_steps(model, optimizer)
    return optimizer


def take_steps(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Two of them; each rank has rows of its own."""
    chance = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(2):
        ids = torch.randint(3, 500, (2, 16), generator=chance)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def keep(weights: dict[str, Any], path: Path) -> None:
    """Writes the whole tensors."""
    full = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()
    }
    if dist.get_rank() == 0:
        torch.save({name: value.clone() for name, value in full.items()}, path)


def main() -> None:
    out, base = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    accelerator = Accelerator(cpu=True)

    tied = AutoModelForCausalLM.from_pretrained(base)
    train(tied, tied.model.layers)
    keep(tied.state_dict(), out / "tied.pt")
    save_fsdp_model(plugin, accelerator, tied, str(out / "tied/checkpoint-2"))

    untied = AutoModelForCausalLM.from_pretrained(base, tie_word_embeddings=False)
    optimizer = train(untied, untied.model.layers)
    keep(untied.state_dict(), out / "untied.pt")
    states = {
        "model": torch.compile(untied).state_dict(),
        "optim": get_optimizer_state_dict(untied, optimizer),
        "step": 2,
    }
    dcp.save({"app": states}, checkpoint_id=out / "untied")
    dcp.save(untied.state_dict(), checkpoint_id=out / "flat")

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    train(adapted, adapted.get_base_model().model.layers)
    keep(get_peft_model_state_dict(adapted), out / "lora.pt")
    save_fsdp_model(plugin, accelerator, adapted, str(out / "lora"), adapter_only=True)
    dcp.save({"model": adapted.state_dict()}, checkpoint_id=out / "lora-and-base")

    # The first generation of FSDP
    first = AutoModelForCausalLM.from_pretrained(base)
    policy = ModuleWrapPolicy({type(first.model.layers[0])})
    first = FullyShardedDataParallel(
        first, auto_wrap_policy=policy, device_id=torch.device("cpu"), use_orig_params=True
    )
    take_steps(first, torch.optim.SGD(first.parameters(), lr=0.1))
    with FullyShardedDataParallel.state_dict_type(
        first, StateDictType.FULL_STATE_DICT, FullStateDictConfig()
    ):
        keep(first.state_dict(), out / "first.pt")
    with FullyShardedDataParallel.state_dict_type(
        first, StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig()
    ):
        dcp.save({"model": first.state_dict()}, checkpoint_id=out / "first/pytorch_model_fsdp_0")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
