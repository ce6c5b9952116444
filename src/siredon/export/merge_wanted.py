"""What `merge-lora` is asked."""

from __future__ import annotations

from dataclasses import dataclass

#: Nats a token: what rounding sums to bf16 costs stays below, see `docs/merging.md`.
MAX_KL = 0.01


@dataclass(frozen=True)
class Merge:
    """What is merged, and how it is checked.

    Args:
        adapters: `DIR` or `DIR:WEIGHT`; empty for the adapter of the run.
        verify: The merged model is held against base and adapter.
        max_kl: The bound of that check, in nats a token.
    """

    adapters: tuple[str, ...] = ()
    verify: bool = True
    max_kl: float = MAX_KL


#: The adapter of the run, checked.
USUAL = Merge()
#: The same, left to the caller to check.
UNCHECKED = Merge(verify=False)
