"""`type: concisechoice`: a question with choices, and a short answer."""

from __future__ import annotations

from dataclasses import replace

from siredon.data.instruct import STYLES, Preamble, build_instruct, read_choices

_TASK = "Choose the answer that best answers the question. Be concise in your response.\n\n"
_FORMAT = build_instruct(read_choices, STYLES["chat"]._replace(system="{system}"), Preamble(_TASK, _TASK))

FORMAT = replace(_FORMAT, variants={"chat": _FORMAT})
