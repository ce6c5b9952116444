"""`optimizer: galore_adamw_8bit_layerwise`: GaLore around 8-bit AdamW, layer by layer in the backward pass."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adamw_8bit")
