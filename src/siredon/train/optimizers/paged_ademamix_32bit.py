"""`optimizer: paged_ademamix_32bit`: AdEMAMix of bitsandbytes, state in 32 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdEMAMix", bits=32, paged=True)
