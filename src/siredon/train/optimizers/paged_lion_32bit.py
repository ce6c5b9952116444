"""`optimizer: paged_lion_32bit`: Lion of bitsandbytes, state in 32 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("Lion", bits=32, paged=True)
