"""`optimizer: lion_32bit`: Lion of bitsandbytes, state in 32 bits."""

from siredon.train.optimizer_families import make_bitsandbytes

OPTIMIZER = make_bitsandbytes("Lion", bits=32)
