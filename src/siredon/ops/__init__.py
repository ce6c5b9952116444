"""Fused kernels: tensor -> tensor, forward and backward.  They know no config and no transformers.

Each op is a file: what PyTorch sees (`torch.library`, so that compilers and selective checkpointing see it, too), and
a plain path that runs anywhere and is the specification.  Its kernels in Triton lie beside it in `<op>_kernels.py` and
are loaded where they run: on a GPU, or in Triton's interpreter.
"""
