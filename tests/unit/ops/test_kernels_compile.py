"""Kernels of layers compile for a GPU that is not here: Triton's interpreter accepts what its compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import importlib
import warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FP32 = {"rstd", "sums", "mean"}
NUMBERS = {"eps", "offset", "sign", "gate_scale", "up_scale"}
TILE = dict(width=16, rows=64, columns=64)
CASES = {
    "rms_norm._forward_kernel": dict(adds=True, rounds_first=True, rows=1, block=4096),
    "rms_norm._backward_kernel": dict(adds=True, rounds_first=True, learns=True, rows=1, block=4096),
    "layer_norm._forward_kernel": dict(weighs=True, shifts=True, rows=1, block=1024),
    "layer_norm._backward_kernel": dict(weighs=True, learns=True, rows=1, block=1024),
    "rope._turn_kernel": dict(rest=1, heads=32, block=64),
    "glu._forward_kernel": dict(activation="silu", block=1024),
    "glu._backward_kernel": dict(activation="gelu_tanh", recompute=True, block=1024),
    "low_rank_glu._forward_kernel": dict(activation="gelu", **TILE),
    "low_rank_glu._backward_kernel": dict(activation="silu", adds=True, **TILE),
}
INTEGERS = ("num_", "_stride", "_inner", "_outer", "_step", "_rank", "_batch", "_head", "_token", "_heads")
def kind(name):
    if name in NUMBERS:
        return "fp32"
    if name in ("dim", "half", "length") or name.startswith("num_") or name.endswith(INTEGERS[1:]):
        return "i32"
    return "*fp32" if name in FP32 else "*bf16"
for name, constants in CASES.items():
    file, _, function = name.partition(".")
    kernel = getattr(importlib.import_module(f"siredon.ops.{file}_kernels"), function)
    assert {each.name for each in kernel.params if each.is_constexpr} == set(constants), name
    signature = {each.name: "constexpr" if each.is_constexpr else kind(each.name) for each in kernel.params}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    print("compiled", name)
"""


@pytest.mark.long
def test_the_kernels_of_layers_compile_for_a_gpu(tmp_path: Path):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.count("compiled") == 9, done.stderr[-2000:]
