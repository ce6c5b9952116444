"""`--method int8_int8`: weights and inputs in 8-bit whole numbers, by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("int8", "int8")
