"""`--method mxfp4_mxfp4`: weights and inputs in 4-bit floats, 32 to a power of two, by torchao."""

from __future__ import annotations

from siredon.export.method import Device
from siredon.export.torchao_method import build_torchao_method

METHOD = build_torchao_method("mxfp4", "mxfp4", Device((10, 0), "B200, RTX 50", "nvfp4"))
