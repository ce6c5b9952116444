"""How batches reach the trainer."""

from __future__ import annotations

from siredon.config.fields import Bool, Int, Section, planned


class LoaderSection(Section):
    """Processes that fetch batches ahead of time."""

    dataloader_num_workers: Int = planned("Fetching processes per device; none fetches in the run's own.", 0)
    dataloader_prefetch_factor: Int | None = planned("Batches that each process holds ready.")
    dataloader_pin_memory: Bool = planned("Hold batches in pinned RAM, for fast copies to the GPU.", True)
    dataloader_drop_last: Bool | None = planned("Leave out a last batch that is not full.")
