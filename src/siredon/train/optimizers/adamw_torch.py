"""`optimizer: adamw_torch`: AdamW of PyTorch."""

from siredon.train.optimizer_families import make_torch_adamw

OPTIMIZER = make_torch_adamw()
