"""`--method fp8`: weights in 8-bit floats (E4M3), by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("fp8")
