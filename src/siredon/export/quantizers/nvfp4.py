"""`--method nvfp4`: weights in 4-bit floats, 16 to a scale in 8 bits, by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("nvfp4")
