"""`type: pretrain`: one column of raw text, learned in full; the same as `completion`.

`field` names the column, as `text_column` does in `pretraining_dataset`.  In Axolotl, the windows of a long text
overlap, so that some tokens are learned twice, and each ends in a stop token, as if the text did.
"""

from __future__ import annotations

from siredon.data.formats.completion import read_completion
from siredon.data.instruct import prompt_text
from siredon.data.types import Format

FORMAT = Format(read=read_completion, prompt=prompt_text)
