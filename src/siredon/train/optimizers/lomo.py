"""`optimizer: lomo`: LOMO, stochastic gradient descent during the backward pass."""

import torch

from siredon.train.optimizer_families import make_torch

OPTIMIZER = make_torch(torch.optim.SGD)
