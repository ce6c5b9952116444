"""`type: alpaca_w_system`: system, instruction, optional input, output, said in the words of a chat.

`load` and `load_chat` are the same, `load_instruct` has the headings of Alpaca.  `load_open_orca` and
`load_open_orca_chatml` read system_prompt, question and response.  A row with an empty system text has none.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.instruct import STYLES, Wording, build_instruct, fields_of

_READ = fields_of("instruction", "output", context="input", system="system")
_READ_ORCA = fields_of("question", "response", system="system_prompt")
_ORCA = Wording(
    "### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n",
    "### Human:\n{instruction}\n### Assistant:\n",
    "### System:\n{system}\n",
)
_CHAT = build_instruct(_READ, STYLES["chat"])

FORMAT = replace(
    _CHAT,
    variants={
        "load": _CHAT,
        "load_chat": _CHAT,
        "load_instruct": build_instruct(_READ, STYLES["instruct"]),
        "load_open_orca": build_instruct(_READ_ORCA, _ORCA),
        "load_open_orca_chatml": build_instruct(_READ_ORCA, STYLES["chatml"]),
    },
)
