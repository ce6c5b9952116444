"""`type: alpaca_instruct`: instruction, optional input, output; the same as `alpaca`.

`alpaca_instruct.load_no_prompt` says nothing before the instruction.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.instruct import ALPACA, STYLES, build_instruct, fields_of

_READ = fields_of("instruction", "output", context="input")
_LOAD = build_instruct(_READ, STYLES["instruct"], ALPACA)

FORMAT = replace(_LOAD, variants={"load": _LOAD, "load_no_prompt": build_instruct(_READ, STYLES["instruct"])})
