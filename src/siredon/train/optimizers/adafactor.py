"""`optimizer: adafactor`: Adafactor of transformers, with the learning rate of the config."""

from siredon.train.optimizer_families import make_adafactor

OPTIMIZER = make_adafactor(scales=False)
