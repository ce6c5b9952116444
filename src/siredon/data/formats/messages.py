"""`type: messages`: messages of role and content, as OpenAI has them, rendered by the chat template.

`messages.chat` is the same, and so is `chat_template`.
"""

from __future__ import annotations

from siredon.data.formats.chat_template import FORMAT as CHAT
from siredon.data.formats.chat_template import read_conversation
from siredon.data.types import Format

_CHAT = Format(read=read_conversation, prompt=CHAT.prompt, uses_template=True)

FORMAT = Format(read=read_conversation, prompt=CHAT.prompt, uses_template=True, variants={"chat": _CHAT})
