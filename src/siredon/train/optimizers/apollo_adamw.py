"""`optimizer: apollo_adamw`: APOLLO, AdamW with channels scaled from a low-rank picture."""

from siredon.train.apollo import build_apollo

OPTIMIZER = build_apollo
