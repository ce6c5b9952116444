"""`--method fp8_fp8`: weights and inputs in 8-bit floats (E4M3), by torchao."""

from __future__ import annotations

from siredon.export.method import Device
from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("fp8", "fp8", Device((8, 9), "L40S, RTX 40, H100", "fp8"))
