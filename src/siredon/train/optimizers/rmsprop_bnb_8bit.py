"""`optimizer: rmsprop_bnb_8bit`: RMSprop of bitsandbytes, state in 8 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("RMSprop", bits=8)
