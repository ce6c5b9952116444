"""Row 19: the reference of DPO is the policy at its start.

Bugs of record: trl#1340, #6591, #6043.
"""

from __future__ import annotations

from siredon.selftest.row import name_unbuilt

ROW = name_unbuilt(
    19,
    "The reference of DPO is the policy at its start: the loss of the first step is ln 2.",
    "the row of `rl: dpo` is not written yet; its tests hold it",
)
