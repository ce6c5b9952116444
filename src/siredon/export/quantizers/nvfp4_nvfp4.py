"""`--method nvfp4_nvfp4`: weights and inputs in 4-bit floats, 16 to a scale in 8 bits, by torchao."""

from __future__ import annotations

from siredon.export.method import Device
from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("nvfp4", "nvfp4", Device((10, 0), "B200, RTX 50", "nvfp4"))
