"""`--method int8`: weights in 8-bit whole numbers, by torchao."""

from __future__ import annotations

from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("int8")
