"""`type: alpaca_chat`: instruction, optional input, output, said in the words of a chat.

`alpaca_chat.load` is the same.  `load_concise` asks for a short answer, `load_qa` reads question and answer and
`load_camel_ai` two messages, both with that wording; `load_no_prompt` says nothing before the instruction.
"""

from __future__ import annotations

from dataclasses import replace

from siredon.data.instruct import ALPACA, STYLES, Preamble, build_instruct, fields_of

_CONCISE = Preamble(
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. "
    "The ASSISTANT writes a response that concisely and appropriately completes the request.\n\n",
    "Below is an instruction from a USER that describes a task. "
    "The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n",
)
_READ = fields_of("instruction", "output", context="input")
_CHAT = STYLES["chat"]
_LOAD = build_instruct(_READ, _CHAT, ALPACA)

FORMAT = replace(
    _LOAD,
    variants={
        "load": _LOAD,
        "load_concise": build_instruct(_READ, _CHAT, _CONCISE),
        "load_qa": build_instruct(fields_of("question", "answer"), _CHAT, _CONCISE),
        "load_camel_ai": build_instruct(fields_of("message_1", "message_2"), _CHAT, _CONCISE),
        "load_no_prompt": build_instruct(_READ, _CHAT),
    },
)
