"""`optimizer: paged_lion_8bit`: Lion of bitsandbytes, state in 8 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("Lion", bits=8, paged=True)
