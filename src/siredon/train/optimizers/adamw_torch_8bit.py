"""`optimizer: adamw_torch_8bit`: AdamW of torchao, state in 8 bits."""

from siredon.train.optimizer_families import make_torchao

OPTIMIZER = make_torchao("AdamW8bit")
