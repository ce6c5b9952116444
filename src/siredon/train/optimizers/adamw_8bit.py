"""`optimizer: adamw_8bit`: AdamW of bitsandbytes, state in 8 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdamW", bits=8)
