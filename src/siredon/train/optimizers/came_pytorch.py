"""`optimizer: came_pytorch`: CAME of pytorch-optimizer (Luo et al., 2023, https://arxiv.org/abs/2307.02047)."""

from siredon.train.optimizer_families import build_came

OPTIMIZER = build_came
