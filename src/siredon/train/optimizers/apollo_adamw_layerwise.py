"""`optimizer: apollo_adamw_layerwise`: APOLLO, layer by layer during the backward pass."""

from siredon.train.apollo import build_apollo

OPTIMIZER = build_apollo
