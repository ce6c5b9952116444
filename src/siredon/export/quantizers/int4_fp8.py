"""`--method int4_fp8`: weights in 4-bit whole numbers, inputs in 8-bit floats: no file holds them."""

from __future__ import annotations

from siredon.export.method import Refusal

METHOD = Refusal(
    "is not built: torchao has such layers for an H100 with the package mslk, and no file of safetensors holds them",
    "Use `--method int4_int8`, or `fp8_fp8` on a GPU.",
)
