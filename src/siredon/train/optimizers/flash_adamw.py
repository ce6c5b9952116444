"""`optimizer: flash_adamw`: FlashAdamW of pytorch-optimizer, state in 8 bits."""

from siredon.train.optimizer_families import make_pytorch_optimizer

OPTIMIZER = make_pytorch_optimizer("FlashAdamW")
