"""`--method fp8_static`: weights and inputs in 8-bit floats, the scales of inputs measured once: not built yet."""

from __future__ import annotations

from siredon.export.method import Refusal

METHOD = Refusal(
    "is not built yet: it takes rows of data to round by, and the package llm-compressor",
    "Use a method that needs no data: `--method fp8`.",
)
