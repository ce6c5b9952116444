"""`--method int4_int8`: weights in 4-bit whole numbers, a byte each, and inputs in 8-bit ones, by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("int4", "int8")
