"""`optimizer: rmsprop_bnb`: RMSprop of bitsandbytes, state in 32 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("RMSprop", bits=32)
