"""`--method int4`: weights in 4-bit whole numbers, a byte each, by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("int4")
