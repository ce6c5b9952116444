"""`optimizer: galore_adafactor`: GaLore around Adafactor."""

from siredon.train.low_rank import make_galore

OPTIMIZER = make_galore("adafactor")
