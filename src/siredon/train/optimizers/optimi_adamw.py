"""`optimizer: optimi_adamw`: AdamW of torch-optimi."""

from siredon.train.optimizer_families import make_optimi

OPTIMIZER = make_optimi("AdamW")
