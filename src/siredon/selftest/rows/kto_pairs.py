"""Row 21: the mismatched pairs of KTO are of different rows.

Bugs of record: trl#1911, #1380, #2153; LlamaFactory#7509.
"""

from __future__ import annotations

from siredon.selftest.row import name_unbuilt

ROW = name_unbuilt(
    21,
    "Mismatched pairs of KTO are of different rows, and their divergence has no gradient.",
    "the row of `rl: kto` is not written yet; its tests hold it",
)
