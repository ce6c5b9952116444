"""Cells of Siredon in a benchmark folder of several engines, beside theirs: writes a copy of the folder that has them.

    python benchmarks/suite.py BENCHMARK_FOLDER COPY
    cd COPY && PYTHONPATH=REPOSITORY/src:REPOSITORY/benchmarks python run_suite.py --suite all --only S.,P.

The folder has `run_suite.py`, which runs each cell in a process of its own, and `cell.py`, which builds a model of
random weights for an engine and times its steps.  What is added there are calls of `engine.py`: the loop, the weights
and the ids are those of the others.  Cells begin with `S.` (Siredon), `X.` (one kernel left out) or `P.` (an
engine that the folder has, on a shape of ours).  It ends with an error where the folder is not the one that it knows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

LORA_8B = {
    "kind": "train",
    "model": "llama-3.1-8b",
    "mode": "lora",
    "seq": 4096,
    "mb": 2,
    "warm": 3,
    "steps": 6,
}
FULL_1B = {
    "kind": "train",
    "model": "llama-3.2-1b",
    "mode": "full",
    "seq": 4096,
    "mb": 4,
    "warm": 3,
    "steps": 8,
}
LORA_1B = {**FULL_1B, "mode": "lora", "gc": "none"}
LORA_4B = {**LORA_8B, "model": "qwen3-4b", "seq": 8192, "mb": 1, "gc": "none"}
PACKED = {"kind": "varlen", "model": "llama-3.2-1b", "mode": "full"}
OURS = {"engine": "siredon", "ce": "siredon"}
AXOLOTL = {"engine": "axolotl", "liger": True, "ce": "liger"}
LEFT_OUT = ("attention", "rope", "glu", "rms_norm", "lora_linear")


def cell(name: str, seconds: int, keys: dict[str, Any], groups: tuple[str, ...] = (), **more: Any) -> Any:
    """One cell, and about how long it takes."""
    return {**keys, **more, "name": name, "est": seconds, "groups": list(groups)}


CELLS = [
    cell("S.8b-lora", 30, {**LORA_8B, **OURS}, gc="full"),
    cell("S.8b-lora.gc-attn", 30, {**LORA_8B, **OURS}, gc="attn"),
    cell("S.8b-lora.no-gc", 30, {**LORA_8B, **OURS}, gc="none"),
    cell("S.8b-qlora", 35, {**LORA_8B, **OURS}, mode="qlora", gc="full", profile=True),
    cell("S.1b-full", 25, {**FULL_1B, **OURS}, gc="none"),
    cell("S.1b-packed", 30, {**PACKED, **OURS}, only=["packed-siredon"]),
    cell("S.1b-lora", 25, {**LORA_1B, **OURS}),
    cell("S.qwen3-4b-lora", 30, {**LORA_4B, **OURS}, profile=True),
    cell("P.1b-packed.liger", 30, PACKED, ("liger",), liger=True, ce="liger", only=["packed-varlen"]),
    cell("P.1b-lora.axolotl", 30, {**LORA_1B, **AXOLOTL}, ("axolotl",)),
    cell("P.qwen3-4b-lora.axolotl", 35, {**LORA_4B, **AXOLOTL}, ("axolotl",), profile=True),
    *(
        cell(f"X.8b-lora.no-gc.without-{word}", 30, {**LORA_8B, **OURS}, gc="none", without=[word])
        for word in LEFT_OUT
    ),
    cell("X.8b-lora.without-loss", 35, {**LORA_8B, **OURS}, gc="full", ce="hf"),
]

#: In `cell.py`: what is found -> what stands there instead.
CHANGES = {
    "import planner as P\n": 'import planner as P\nif ENGINE == "siredon": import engine as OURS\n',
    '    if ce in ("hf", "liger"):\n': '    if ce == "siredon": return OURS.build_loss(base)\n'
    '    if ce in ("hf", "liger"):\n',
    '        if ENGINE == "axolotl": patch_axolotl(m)\n': '        if ENGINE == "axolotl": patch_axolotl(m)\n'
    '        if ENGINE == "siredon": OURS.fuse_(inner(m), tuple(spec.get("without", ())))\n',
    '        if gc != "none" and spec.get("loop") != "trainer":\n': '        if ENGINE == "siredon":\n'
    '            OURS.recompute_(base, {"full": True, "none": False}.get(gc, gc))\n'
    '        elif gc != "none" and spec.get("loop") != "trainer":\n',
    # Qwen3 has norms between its projections and the rotation
    "    from transformers.models.llama import modeling_llama as ML\n": "    import importlib\n"
    "    ML = importlib.import_module(type(inner(m)).__module__)\n",
    "        q, k, v = (t.view(hs).transpose(1, 2) for t in (q, k, v))\n": ""
    "        q, k, v = (t.view(hs) for t in (q, k, v))\n"
    '        if hasattr(self, "q_norm"): q, k = self.q_norm(q), self.k_norm(k)\n'
    "        q, k, v = (t.transpose(1, 2) for t in (q, k, v))\n",
    '("packed-varlen", "varlen_bench", lambda: packed(True))]': ""
    '("packed-varlen", "varlen_bench", lambda: packed(True)), '
    '("packed-siredon", "sdpa", lambda: packed(False))]',
    "            m.train(); data = mk()": '            if ENGINE == "siredon": OURS.fuse_(m)\n'
    "            m.train(); data = mk()",
    # Outside the clock, where the others read their borders, too
    "                a = Ev()\n                loss = lf(ids, lb, **kw)": '                if ENGINE == "siredon": '
    'OURS.measure_ahead(kw["position_ids"])\n                a = Ev()\n                loss = lf(ids, lb, **kw)',
}


def copy_suite(source: Path, target: Path) -> None:
    """Copies a benchmark folder, with the cells of this file in it."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    text = (target / "cell.py").read_text()
    for old, new in CHANGES.items():
        if text.count(old) != 1:
            sys.exit(f"{source / 'cell.py'}: {old.strip()!r} stands there {text.count(old)} times, not once")
        text = text.replace(old, new)
    (target / "cell.py").write_text(text)
    suite, before = (target / "run_suite.py").read_text(), "def tiny(cells):\n"
    if suite.count(before) != 1:
        sys.exit(f"{source / 'run_suite.py'}: {before.strip()!r} is not there")
    added = 'EXTRA += json.load(open(os.path.join(HERE, "siredon.json")))\n'
    (target / "run_suite.py").write_text(suite.replace(before, added + before))
    (target / "siredon.json").write_text(json.dumps(CELLS, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    copy_suite(options.source, options.target)


if __name__ == "__main__":
    main()
