"""What `serve` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Address:
    """Where the server is reached, and by whom.

    Args:
        host: Address on which it listens.
        port: Port on which it listens; 0 takes a free one.
        api_key: What a client must send; empty for nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """Host and port, as an address of the web has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


@dataclass(frozen=True)
class Limits:
    """What one request may ask, and how many may wait.

    Args:
        max_body_bytes: Longest request.
        max_prompt_tokens: Longest prompt; None for what the model takes.
        max_tokens: Longest answer, and the length of an answer to a chat where the client names none.
        max_answers: Most answers to one prompt.
        max_waiting: Most requests that wait for the model.
        timeout_seconds: Longest time from a request to the end of its answer.
    """

    max_body_bytes: int = 4 * 2**20
    max_prompt_tokens: int | None = None
    max_tokens: int = 2048
    max_answers: int = 8
    max_waiting: int = 64
    timeout_seconds: float = 600.0


@dataclass(frozen=True)
class Wanted:
    """What `serve` is asked.

    Args:
        engine: Which engine, by its name on the shelf.
        name: What the tuned model is called; empty for the name of its folder.
        adapters: More adapters of the same base, by name.
        address: Where it is reached.
        limits: What a request may ask.
        vllm_env: The environment in which vLLM is; None for the usual places.
    """

    engine: str = "transformers"
    name: str = ""
    adapters: tuple[tuple[str, Path], ...] = ()
    address: Address = Address()
    limits: Limits = Limits()
    vllm_env: Path | None = None
