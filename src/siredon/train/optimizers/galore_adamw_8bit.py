"""`optimizer: galore_adamw_8bit`: GaLore around 8-bit AdamW of bitsandbytes."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adamw_8bit")
