"""Row 20: log-probabilities of preferences are those of the responses alone.

A common bug: the prompt, or the padding, is counted too.
"""

from __future__ import annotations

from siredon.selftest.row import name_unbuilt

ROW = name_unbuilt(
    20,
    "Log-probabilities of preferences are sums over the responses alone, however rows are padded.",
    "the row of `rl: dpo` is not written yet; its tests hold it",
)
