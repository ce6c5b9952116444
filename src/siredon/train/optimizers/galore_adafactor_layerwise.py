"""`optimizer: galore_adafactor_layerwise`: GaLore around Adafactor, layer by layer in the backward pass."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adafactor")
