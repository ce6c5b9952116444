"""Answers -> bodies in the shape of OpenAI's API.

Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from siredon.serve.asked import RequestError
from siredon.serve.watch import Piece

END = "data: [DONE]\n\n"
_TYPES = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error", 504: "timeout_error"}


@dataclass(frozen=True)
class Shape:
    """How the answers to one request are written.

    Args:
        model: The name of the model.
        is_chat: Messages, or plain text.
        num_prompt: Tokens of the prompt.
        name: The name of the answer.
        created: When it began, in seconds since 1970.
    """

    model: str
    is_chat: bool
    num_prompt: int
    name: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], reasons: Sequence[str], num_tokens: int) -> dict[str, Any]:
        """All answers in one body."""
        choices = [
            self._choice(index, {"role": "assistant", "content": text}, text, reason, "message")
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {
            **self._head("chat.completion" if self.is_chat else "text_completion"),
            "choices": choices,
            "usage": self._usage(num_tokens),
        }

    def opening(self, num_answers: int, *, with_usage: bool) -> list[str]:
        """The events with which a stream of messages begins."""
        if not self.is_chat:
            return []
        first = {"role": "assistant", "content": ""}
        return [
            self._event([self._choice(index, first, "", None, "delta")], with_usage=with_usage)
            for index in range(num_answers)
        ]

    def piece(self, piece: Piece, *, with_usage: bool) -> str:
        """The event of one piece."""
        delta = {"content": piece.text} if piece.text else {}
        choice = self._choice(piece.index, delta, piece.text, piece.reason, "delta")
        return self._event([choice], with_usage=with_usage)

    def usage(self, num_tokens: int) -> str:
        """The last event of a stream whose client wants to know."""
        body = {**self._stream_head(), "choices": [], "usage": self._usage(num_tokens)}
        return event(body)

    def _choice(
        self, index: int, message: dict[str, Any], text: str, reason: str | None, kind: str
    ) -> dict[str, Any]:
        said = {kind: message} if self.is_chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[dict[str, Any]], *, with_usage: bool) -> str:
        more = {"usage": None} if with_usage else {}
        return event({**self._stream_head(), "choices": choices, **more})

    def _stream_head(self) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self.is_chat else "text_completion")

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.name}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _usage(self, num_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": num_tokens,
            "total_tokens": self.num_prompt + num_tokens,
        }


def event(body: dict[str, Any]) -> str:
    """A body as an event of a stream."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_body(error: RequestError) -> dict[str, Any]:
    """A refusal, as clients of OpenAI's API read it."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.status, usual),
            "param": error.param or None,
            "code": error.code or None,
        }
    }
