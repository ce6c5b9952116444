"""`optimizer: paged_adamw_8bit`: AdamW of bitsandbytes, state in 8 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdamW", bits=8, paged=True)
