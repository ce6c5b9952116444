"""`--method llm_int8`: weights and inputs in 8-bit whole numbers, by bitsandbytes."""

from __future__ import annotations

from siredon.export.bitsandbytes_method import build_8bit_method

METHOD = build_8bit_method()
