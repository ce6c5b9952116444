"""`optimizer: galore_adamw_layerwise`: GaLore around AdamW, layer by layer in the backward pass."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adamw")
