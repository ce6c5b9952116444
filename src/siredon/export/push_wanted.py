"""What `siredon push` is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Push:
    """The words of one command line.

    Args:
        repo: The repository; None for `hub_model_id`.
        revision: The branch; None for `hub_revision`.
        public: The repository is public; False for `hub_private_repo`.
        what: `adapter`, `merged`, `quantized`, or a file or folder; None for what the command line names.
        dry_run: Say what would be sent, and ask nothing of the network.
    """

    repo: str | None = None
    revision: str | None = None
    public: bool = False
    what: str | None = None
    dry_run: bool = False
