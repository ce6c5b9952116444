"""Started by torchrun with two ranks: Muon on weights that FSDP2 shards.  Rank 0 writes the weights to argv[1]."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from tests.unit.train.test_optimizers import Problem, build, plan_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def main() -> None:
    mesh = init_device_mesh("cpu", (2,))
    model = Problem()
    for module in (model.first, model.second):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert isinstance(model.second.weight, DTensor)
    optimizer = build(model, plan_of("muon"))
    for step in range(3):
        model(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert isinstance(optimizer.state[model.second.weight]["momentum_buffer"], DTensor)
    weights = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if dist.get_rank() == 0:
        torch.save(weights, sys.argv[1])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
