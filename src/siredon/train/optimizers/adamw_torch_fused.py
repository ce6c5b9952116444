"""`optimizer: adamw_torch_fused`: AdamW of PyTorch, all of a step in one kernel."""

from siredon.train.optimizer_families import make_torch_adamw

OPTIMIZER = make_torch_adamw(fused=True)
