"""Fused kernels on a model: one file per word in `kernels:`.

Each file defines `KERNEL`, which puts an op of `ops/` in the place of what a layer computes, on that instance alone.
"""
