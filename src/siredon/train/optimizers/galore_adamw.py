"""`optimizer: galore_adamw`: GaLore around AdamW."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adamw")
