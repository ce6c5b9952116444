"""Fused kernels of `siredon.ops`, put on an instance of a model."""
