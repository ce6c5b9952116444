"""`optimizer: paged_adamw_32bit`: AdamW of bitsandbytes, state in 32 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdamW", bits=32, paged=True)
