"""`optimizer: ademamix_8bit`: AdEMAMix of bitsandbytes, state in 8 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("AdEMAMix", bits=8)
