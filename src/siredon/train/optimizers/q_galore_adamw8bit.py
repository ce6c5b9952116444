"""`optimizer: q_galore_adamw8bit`: Q-GaLore, 8-bit AdamW in a space whose projections are quantized."""

from siredon.train.low_rank import build_q_galore

OPTIMIZER = build_q_galore
