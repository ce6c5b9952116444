"""`optimizer: ao_adamw_fp8`: AdamW of torchao, state in 8-bit floats."""

from siredon.train.optimizer_families import make_torchao

OPTIMIZER = make_torchao("AdamWFp8")
