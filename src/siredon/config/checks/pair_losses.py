"""The losses of `rl: dpo`."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.preference import PreferenceSection
from siredon.config.shelves import PAIR_LOSSES
from siredon.registry import find_clear, suggest

#: Losses that read `dpo_label_smoothing`; tests/unit/config/test_pair_losses.py holds this against them.
_SMOOTHED = ("sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired")
#: Names of losses in older releases of TRL.
_OLD_LOSSES = {"aot_pair": "aot_unpaired"}


def _check_words(preference: PreferenceSection) -> Iterator[Finding]:
    """`dpo_loss_type` names losses that there are.

    One loss, or several that are added up.
    """
    words = preference.dpo_loss_type
    if words is not None and not words:
        yield Finding("dpo_loss_type", "`dpo_loss_type` names no loss", "Write `[sigmoid]`, or remove it.")
    known = PAIR_LOSSES.names()
    for word in words or ():
        if word in known:
            continue
        clear = _OLD_LOSSES.get(word) or find_clear(word, known)
        hint = f"Write `{clear}`." if clear else f"{suggest(word, known)}Known: {', '.join(known)}."
        yield Finding(
            "dpo_loss_type",
            f"`{word}` is no loss that Siredon knows",
            hint,
            value=word,
            replacement=clear,
        )


def _check_smoothing(preference: PreferenceSection) -> Iterator[Finding]:
    """`dpo_label_smoothing` is below a half, and of use to one of the losses.

    It is the fraction of judgements that are taken to be wrong: with half of them wrong, nothing is left to learn.
    `exo_pair` compares with smoothed judgements, and is infinite without.
    """
    words, smoothing = preference.dpo_loss_type or ("sigmoid",), preference.dpo_label_smoothing
    if preference.rl != "dpo":
        return
    if "exo_pair" in words and not smoothing:
        message = "`exo_pair` needs `dpo_label_smoothing` above 0"
        yield Finding("dpo_loss_type", message, "Add `dpo_label_smoothing: 0.001`.")
    if smoothing is None:
        return
    if not 0 <= smoothing < 0.5:
        message = f"`dpo_label_smoothing: {smoothing:g}` is not at least 0 and below 0.5"
        yield Finding("dpo_label_smoothing", message, "Set it to 0.1, for example.")
    elif smoothing and not set(words) & set(_SMOOTHED):
        yield Finding(
            "dpo_label_smoothing",
            f"`dpo_label_smoothing` has no effect on {list_keys(words)}",
            f"Remove it, or use one of {', '.join(_SMOOTHED)}.",
            "warning",
        )


def _check_weighting(preference: PreferenceSection) -> Iterator[Finding]:
    """Losses that match answers of different pairs do not weigh pairs.

    `aot` and `aot_unpaired` sort the scores of a step, so what they add up is of no single pair.
    """
    found = [word for word in preference.dpo_loss_type or () if word in ("aot", "aot_unpaired")]
    if preference.dpo_use_weighting and found:
        message = f"`dpo_use_weighting: true` does not work with `{found[0]}`"
        yield Finding("dpo_use_weighting", message, "Remove one of them.")


RULES = (
    Rule(
        "SD0640",
        _check_words,
        wrong="rl: dpo\ndpo_loss_type: [sigmoyd]",
        right="rl: dpo\ndpo_loss_type: [sigmoid]",
    ),
    Rule(
        "SD0641",
        _check_smoothing,
        wrong="rl: dpo\ndpo_loss_type: [exo_pair]",
        right="rl: dpo\ndpo_loss_type: [exo_pair]\ndpo_label_smoothing: 0.001",
    ),
    Rule(
        "SD0642",
        _check_weighting,
        wrong="rl: dpo\ndpo_loss_type: [aot]\ndpo_use_weighting: true",
        right="rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_use_weighting: true",
    ),
)
