"""Settings of the methods that learn from pairs of answers."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.preference import PreferenceSection


def _check_slope(preference: PreferenceSection) -> Iterator[Finding]:
    """`rl: simpo` says how steep its loss is.

    Without a reference model `rl_beta` holds to nothing: it is what a difference of log-probabilities per token is
    multiplied by.  The default of 0.1 is that of the reference and of DPO, with which hardly anything is learned of the
    difference; the paper takes 2 to 10.
    """
    if preference.rl == "simpo" and preference.rl_beta is None:
        yield Finding(
            "rl",
            "`rl: simpo` without `rl_beta` takes 0.1, with which the two answers are hardly told apart",
            "Set `rl_beta: 2.0`, for example.",
            "warning",
        )


_PAIRS = "datasets:\n  - path: pairs.jsonl\n    type: chat_template.default\n"
RULES = (
    Rule(
        "SD0660",
        _check_slope,
        wrong=_PAIRS + "rl: simpo",
        right=_PAIRS + "rl: simpo\nrl_beta: 2.0",
    ),
)
