"""Kernels in Triton run in its interpreter here: no GPU is needed, and every program can be looked at."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Read when a kernel is defined, so before any of them is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
