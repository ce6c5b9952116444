"""`optimizer: adopt_adamw`: ADOPT of pytorch-optimizer (Taniguchi et al., 2024, https://arxiv.org/abs/2411.02853)."""

from siredon.train.optimizer_families import make_pytorch_optimizer

OPTIMIZER = make_pytorch_optimizer("ADOPT")
