"""`type: sharegpt`: the same as `conversations`, under the name by which supervised data is known."""

from __future__ import annotations

from siredon.data.preference_formats.conversations import FORMAT as CONVERSATIONS

FORMAT = CONVERSATIONS
