"""`--method fp4`: weights in 4-bit floats, by bitsandbytes."""

from __future__ import annotations

from siredon.export.bitsandbytes_method import build_4bit_method

METHOD = build_4bit_method("fp4")
