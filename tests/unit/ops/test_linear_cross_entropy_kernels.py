"""The kernels compile for GPUs that are not here: Triton's interpreter accepts what its compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from siredon.ops import linear_cross_entropy_kernels as kernels

INTEGERS = {"num_ids", "stride"}
POINTERS = {"targets": "*i64", "losses": "*fp32", "weights": "*fp32", "log_probs": "*fp32", "log_sums": "*fp32",
            "entropies": "*fp32", "upstream": "*fp32", "entropy_upstream": "*fp32"}
CASES = [
    ("_score_kernel", dict(caps=True, smooths=True, weighs=True, writes=True, ignore=-100, block=8192), 16),
    ("_score_kernel", dict(caps=False, smooths=False, weighs=False, writes=False, ignore=-100, block=64), 4),
    ("_statistics_kernel", dict(caps=True, measures=True, ignore=-100, block=8192), 16),
    ("_statistics_gradient_kernel", dict(caps=True, measures=True, ignore=-100, block=1024), 4),
]
for name, constants, num_warps in CASES:
    kernel = getattr(kernels, name)
    for logits in ("*bf16", "*fp16", "*fp32"):
        known = {"logits": logits, **POINTERS, **dict.fromkeys(INTEGERS, "i32")}
        known |= dict.fromkeys(constants, "constexpr")
        signature = {each.name: known.get(each.name, "fp32") for each in kernel.params}
        assert {each.name for each in kernel.params if each.is_constexpr} == set(constants)
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
        print("compiled", name)
"""


@pytest.mark.long
def test_the_kernels_compile_for_a_gpu(tmp_path: object):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.count("compiled") == 12, done.stderr[-2000:]
