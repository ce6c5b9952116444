"""`--method awq`: AWQ, which rounds by rows of data: not built."""

from __future__ import annotations

from siredon.export.method import Refusal

METHOD = Refusal(
    "is not built: of llm-compressor it needs a GPU, on which it was not tried",
    "Use `--method gptq`, which rounds by rows of data too, or `--method nf4`, which needs none.",
)
