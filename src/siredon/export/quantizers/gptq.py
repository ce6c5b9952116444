"""`--method gptq`: weights in 4-bit whole numbers, two in a byte, rounded by rows of data, by llm-compressor."""

from __future__ import annotations

from siredon.export.compressor import build_gptq_method

METHOD = build_gptq_method()
