"""`type: explainchoice`: a question with choices, and the answer with its reasons."""

from __future__ import annotations

from siredon.data.instruct import STYLES, Preamble, build_instruct, build_styles, read_choices

_TASK = "Choose the answer that best answers the question. Explain your reasoning.\n"
_PREAMBLE = Preamble(_TASK, _TASK)

FORMAT = build_instruct(read_choices, STYLES["instruct"], _PREAMBLE, build_styles(read_choices, _PREAMBLE))
