"""`type: summarizetldr`: an article and its summary, asked for as a TL;DR."""

from __future__ import annotations

from dataclasses import replace

from siredon.data.instruct import Wording, build_instruct, fields_of

_HEAD = "USER: Summarize the following article as a TL;DR.\n{instruction}\n"
_FORMAT = build_instruct(
    fields_of("article", "summary"), Wording(f"{_HEAD}{{input}}\nASSISTANT:", f"{_HEAD}ASSISTANT:")
)

FORMAT = replace(_FORMAT, variants={"chat": _FORMAT})
