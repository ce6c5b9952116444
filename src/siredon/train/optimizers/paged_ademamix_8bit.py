"""`optimizer: paged_ademamix_8bit`: AdEMAMix of bitsandbytes, state in 8 bits, which may move to RAM."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdEMAMix", bits=8, paged=True)
