"""What ranks tell each other while some wait in a collective: words in the store by which they found each other."""

from __future__ import annotations

import os
import time
from datetime import timedelta

_SECONDS_TO_CONNECT = 30.0
_SECONDS_BETWEEN_LOOKS = 0.2


class Board:
    """Words under keys, which any rank writes and reads at any moment, from any thread; no other rank need take part.

    It is the `TCPStore` behind `MASTER_ADDR` and `MASTER_PORT`, over a connection of its own.

    Args:
        name: Of what is told here: other boards have other keys.

    Raises:
        RuntimeError: The store cannot be reached; the same later, once it is no more.
    """

    def __init__(self, name: str) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=_SECONDS_TO_CONNECT)
        store = TCPStore(address, port, is_master=False, timeout=timeout)
        # torchrun may keep its store when it starts all ranks again
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"siredon/{name}/{attempt}", store)

    def write(self, key: str, text: str) -> None:
        """Writes, in place of what is there."""
        self._store.set(key, text)

    def write_first(self, key: str, text: str) -> str:
        """Writes if nothing is there yet; what is there then."""
        return bytes(self._store.compare_set(key, "", text)).decode()

    def read(self, key: str) -> str | None:
        """What is there; None for nothing.  Does not wait."""
        return bytes(self._store.get(key)).decode() if self._store.check([key]) else None

    def wait(self, key: str, seconds: float) -> str | None:
        """What is there, once it is; None if it does not come in time."""
        deadline = time.monotonic() + seconds
        while (found := self.read(key)) is None and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return found
