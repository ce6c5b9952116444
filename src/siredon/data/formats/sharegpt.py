"""`type: sharegpt`: conversations of from and value, as ShareGPT has them, rendered by the chat template.

Axolotl has dropped this word, and its own wordings with it; the rows are the same.
"""

from __future__ import annotations

from siredon.data.formats.chat_template import FORMAT as CHAT
from siredon.data.formats.conversations import read_conversations
from siredon.data.types import Format

FORMAT = Format(read=read_conversations, prompt=CHAT.prompt, uses_template=True)
