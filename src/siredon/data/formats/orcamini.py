"""`type: orcamini`: system_prompt, question, response, in the wording of Orca Mini.

Source: the model card of Orca Mini v2, https://huggingface.co/psmathur/orca_mini_v2_7b.  A row with an empty
system text has no system block; in Axolotl, it has an empty one.
"""

from __future__ import annotations

from siredon.data.instruct import Wording, build_instruct, fields_of

_HEAD = "### User:\n{instruction}\n\n"

FORMAT = build_instruct(
    fields_of("question", "response", system="system_prompt"),
    Wording(
        f"{_HEAD}### Input:\n{{input}}\n\n### Response:\n",
        f"{_HEAD}### Response:\n",
        "### System:\n{system}\n\n",
    ),
)
