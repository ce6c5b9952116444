"""`optimizer: stable_adamw`: StableAdamW of torch-optimi, AdamW with clipped updates."""

from siredon.train.optimizer_families import make_optimi

OPTIMIZER = make_optimi("StableAdamW")
