"""`optimizer: lion`: Lion of torch-optimi (Chen et al., 2023, https://arxiv.org/abs/2302.06675)."""

from siredon.train.optimizer_families import make_optimi

OPTIMIZER = make_optimi("Lion")
