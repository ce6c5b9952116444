"""Each op beside the formula as models write it: time forward and backward, and how much of the memory's speed it uses.

python benchmarks/ops.py [--only rms_norm] [--out benchmarks/results/ops_DEVICE_DATE.md]

On a CPU the sizes are tiny: it shows that everything runs.  A further op is a further function in `CASES`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.formulas import plain_add_rms_norm, plain_glu, plain_rms_norm, plain_rope  # noqa: E402

from siredon.hardware import GPU, probe_hardware  # noqa: E402
from siredon.ops.glu import glu  # noqa: E402
from siredon.ops.layer_norm import layer_norm  # noqa: E402
from siredon.ops.rms_norm import add_rms_norm, rms_norm  # noqa: E402
from siredon.ops.rope import rope  # noqa: E402

DEVICE = GPU if torch.cuda.is_available() else "cpu"
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        name: Op and sizes.
        ours: The op.
        plain: The formula.
        given: Their inputs.
        learned: Which of them have a gradient.
        num_forward: Elements of `given` and outputs that the op must at least move, in units of `given[0]`'s elements.
        num_backward: The same for the backward pass.
    """

    name: str
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    given: Sequence[Tensor]
    learned: Sequence[bool]
    num_forward: float
    num_backward: float


def make(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def rms_norms(tiny: bool) -> Iterator[Case]:
    for shape in ((8, 64), (64, 16)) if tiny else ((8192, 4096), (8192, 5120), (8192 * 32, 128)):
        for learns in (False, True):
            name = f"rms_norm {[*shape]}" + (", weight learns" if learns else "")
            ours, plain = partial(rms_norm, eps=EPS), partial(plain_rms_norm, eps=EPS)
            yield Case(name, ours, plain, [make(*shape), make(shape[-1])], [True, learns], 2, 3)
    shape = (8, 64) if tiny else (8192, 4096)
    given = [make(*shape), make(*shape), make(shape[-1])]
    ours, plain = partial(add_rms_norm, eps=EPS), partial(plain_add_rms_norm, eps=EPS)
    yield Case(f"add_rms_norm {[*shape]}", ours, plain, given, [True, True, False], 4, 4)


def layer_norms(tiny: bool) -> Iterator[Case]:
    shape = (8, 64) if tiny else (8192, 4096)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, EPS)

    given = [make(*shape), make(shape[-1]), make(shape[-1])]
    ours = partial(layer_norm, eps=EPS)
    for learns in (False, True):
        name = f"layer_norm {[*shape]}" + (", weight and bias learn" if learns else "")
        yield Case(name, ours, plain, given, [True, learns, learns], 2, 3)


def ropes(tiny: bool) -> Iterator[Case]:
    batch, length, heads, dim = (1, 8, (4, 2), 16) if tiny else (2, 4096, (32, 8), 128)
    q, k = (make(batch, length, n, dim).transpose(1, 2) for n in heads)
    angle = torch.arange(length, device=DEVICE)[None, :, None] * torch.rand(dim // 2, device=DEVICE)
    both = torch.cat((angle, angle), dim=-1)
    cos, sin = both.cos().to(q.dtype), both.sin().to(q.dtype)
    moved = 2 * (1 + heads[1] / heads[0])
    name = f"rope {[*q.shape]}, {heads[1]} key heads"
    yield Case(name, rope, plain_rope, [q, k, cos, sin], [True, True, False, False], moved, moved)


def glus(tiny: bool) -> Iterator[Case]:
    shape = (8, 64) if tiny else (8192, 14336)
    for activation in ("silu", "gelu_tanh"):
        ours, plain = partial(glu, activation=activation), partial(plain_glu, activation=activation)
        yield Case(
            f"glu {activation} {[*shape]}", ours, plain, [make(*shape), make(*shape)], [True, True], 3, 5
        )


#: Word of `--only` -> its rows, tiny or not.
CASES: dict[str, Callable[[bool], Iterator[Case]]] = {
    "rms_norm": rms_norms,
    "rope": ropes,
    "glu": glus,
    "layer_norm": layer_norms,
}


def time_call(function: Callable[[], Any], runs: int) -> float:
    """Microseconds, the median; on a GPU the cache is flushed before each run, and host time is hidden behind that."""
    if DEVICE == "cpu":
        seconds = []
        for _ in range(runs):
            begin = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds) * 1e6
    flush = torch.empty(512 * 2**20, dtype=torch.int8, device=DEVICE)
    events = []
    for _ in range(runs):
        flush.zero_()
        # The host is this far ahead: what it takes to launch is not counted
        torch.cuda._sleep(400_000)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) * 1e3


def measure(function: Callable[..., Any], case: Case, runs: int) -> tuple[float, float]:
    """Microseconds forward and backward."""
    leaves = [x.detach().requires_grad_(has) for x, has in zip(case.given, case.learned, strict=True)]
    wanted = [x for x in leaves if x.requires_grad]
    found = function(*leaves)
    outputs = found if isinstance(found, tuple) else (found,)
    above = [torch.randn_like(y) for y in outputs]
    backward = partial(torch.autograd.grad, outputs, wanted, above, retain_graph=True)
    for _ in range(3):
        function(*leaves)
        backward()
    return time_call(lambda: function(*leaves), runs), time_call(backward, runs)


def render_row(case: Case, runs: int) -> str:
    ours, plain = measure(case.ours, case, runs), measure(case.plain, case, runs)
    elements = case.given[0].numel() * case.given[0].element_size()
    speeds = [
        n * elements / us / 1e3 for n, us in zip((case.num_forward, case.num_backward), ours, strict=True)
    ]
    cells = [case.name]
    for us, speed, other in zip(ours, speeds, plain, strict=True):
        cells += [f"{us:.1f}", f"{speed:.0f}", f"{other / us:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """The table, printed and maybe written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        f"{probe_hardware().describe()}, PyTorch {torch.__version__}, bf16, median of {options.runs} runs, cold cache.",
        "GB/s counts each element that must be read or written once.  Ratio: time of the plain formula / ours.",
        "",
        "| op | forward us | GB/s | ratio | backward us | GB/s | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for name in options.only:
        for case in CASES[name](DEVICE == "cpu"):
            lines.append(render_row(case, options.runs))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("# Ops\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
