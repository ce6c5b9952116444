"""How batches reach the trainer."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, key, planned


class LoaderSection(Section):
    """Processes that fetch batches ahead of time."""

    dataloader_num_workers: Int = key(
        "Fetching processes per device; with none the run fetches its batches itself.", 0, ge=0
    )
    dataloader_prefetch_factor: Int | None = key(
        "Batches that each process holds ready; default 2.", None, ge=1
    )
    dataloader_pin_memory: Bool = key("Hold batches in pinned RAM, for fast copies to a GPU.", True)
    dataloader_drop_last: Bool | None = planned(
        "Leave out a last batch that is not full; each row counts here, and a batch may be short."
    )
