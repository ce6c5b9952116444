"""`type: chat_template`: messages, and a better and a worse answer to them, rendered by the chat template.

`chat_template.default` is the same.  `argilla_chat`, or `argilla`, is for rows whose answers repeat the whole
conversation; `icr`, `intel`, `prompt_pairs`, `ultra` and `nectar` read the columns of data sets of these names.
"""

from __future__ import annotations

from siredon.data.pair_formats import LAYOUTS, build_pair_format
from siredon.data.pair_rows import read_default, read_ranked, read_whole

_READERS = {"default": read_default, "argilla": read_whole, "nectar": read_ranked, **LAYOUTS}
FORMAT = build_pair_format(
    read_default, variants={name: build_pair_format(read) for name, read in _READERS.items()}
)
