"""`optimizer: adagrad`: Adagrad of PyTorch."""

import torch

from siredon.train.optimizer_families import make_torch

OPTIMIZER = make_torch(torch.optim.Adagrad)
