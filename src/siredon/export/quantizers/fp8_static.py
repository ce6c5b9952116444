"""`--method fp8_static`: weights and inputs in 8-bit floats, scales of inputs measured once, by llm-compressor."""

from __future__ import annotations

from siredon.export.compressor import build_fp8_static_method

METHOD = build_fp8_static_method()
