"""`optimizer: ademamix`: AdEMAMix of bitsandbytes, state in 32 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdEMAMix", bits=32)
