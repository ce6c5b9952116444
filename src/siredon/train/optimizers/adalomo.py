"""`optimizer: adalomo`: AdaLOMO, factored second moments and steps relative to the weights, during the backward pass.

Source: Lv et al., "AdaLomo: Low-memory Optimization with Adaptive Learning Rate", 2023,
https://arxiv.org/abs/2310.10195.
"""

from siredon.train.optimizer_families import make_adafactor

OPTIMIZER = make_adafactor(scales=True)
