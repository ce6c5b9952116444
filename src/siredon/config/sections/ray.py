"""Ray."""

from __future__ import annotations

from typing import Any

from siredon.config.fields import Bool, Int, Section, Str, planned


class RaySection(Section):
    """Processes started by Ray."""

    use_ray: Bool = planned("Start the run by Ray Train.", False)
    ray_run_name: Str | None = planned("Name of the run in Ray.")
    ray_num_workers: Int = planned("Processes.", 1)
    resources_per_worker: dict[str, Any] = planned("Resource -> how much each process gets.", {"GPU": 1})
