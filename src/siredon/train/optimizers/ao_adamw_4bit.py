"""`optimizer: ao_adamw_4bit`: AdamW of torchao, state in 4 bits."""

from siredon.train.optimizer_families import make_torchao

OPTIMIZER = make_torchao("AdamW4bit")
