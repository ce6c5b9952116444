from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tests.unit.config.texts import check

from siredon.config.checks.pair_losses import RULES
from siredon.config.diagnostics import Diagnostic
from siredon.config.sections.preference import PreferenceSection
from siredon.config.shelves import PAIR_LOSSES
from siredon.train.pair_loss import PairOptions, PairScores

OWN = {rule.code for rule in RULES}


def problems(added: str) -> list[Diagnostic]:
    """What these rules have to say of a DPO run; keys that are not built yet are another rule's."""
    return [each for each in check("rl: dpo\n" + added).diagnostics if each.code in OWN]


@pytest.mark.parametrize("word", PAIR_LOSSES.names())
def test_every_loss_on_the_shelf_is_a_word(word: str):
    smoothing = "dpo_label_smoothing: 0.001\n" if word == "exo_pair" else ""
    assert problems(f"dpo_loss_type: [{word}]\n{smoothing}") == []


@pytest.mark.parametrize(
    ("word", "clear"),
    [("sigmoyd", "sigmoid"), ("bco_pare", "bco_pair"), ("aot_pair", "aot_unpaired"), ("kto", None)],
)
def test_another_word_is_an_error_with_the_way_out(word: str, clear: str | None):
    (problem,) = problems(f"dpo_loss_type: [sft, {word}]\n")
    assert (problem.code, problem.severity, problem.key) == ("SD0640", "error", "dpo_loss_type")
    assert f"`{word}`" in problem.message
    if clear:
        assert problem.fix == f"Write `{clear}`."
    else:
        assert all(name in problem.fix for name in PAIR_LOSSES.names())


def test_no_loss_at_all_is_an_error():
    """Of a key that is not built yet an empty value is as none; so the rule is asked itself."""
    (finding,) = RULES[0].check(PreferenceSection(rl="dpo", dpo_loss_type=()))
    assert finding.key == "dpo_loss_type"


@pytest.mark.parametrize("value", ["0.5", "1.0", "-0.1"])
def test_smoothing_is_below_a_half(value: str):
    (problem,) = problems(f"dpo_label_smoothing: {value}\n")
    assert (problem.code, problem.severity, problem.key) == ("SD0641", "error", "dpo_label_smoothing")


@pytest.mark.parametrize("value", ["", "dpo_label_smoothing: 0\n"])
def test_exo_needs_smoothing(value: str):
    (problem,) = problems(f"dpo_loss_type: [sigmoid, exo_pair]\n{value}")
    assert (problem.code, problem.key) == ("SD0641", "dpo_loss_type")


@pytest.mark.parametrize("word", PAIR_LOSSES.names())
def test_smoothing_without_effect_is_a_warning_for_just_the_losses_that_do_not_read_it(word: str):
    found = problems(f"dpo_loss_type: [{word}]\ndpo_label_smoothing: 0.1\n")
    one = torch.ones(1, dtype=torch.long)
    scores = PairScores(*(torch.tensor([each]) for each in (-3.0, -9.0, -4.0, -4.0)), one, one)
    losses = [PAIR_LOSSES.load(word).run(scores, PairOptions(0.3, each)).item() for each in (0.01, 0.1)]
    assert [each.severity for each in found] == (["warning"] if losses[0] == losses[1] else [])


@pytest.mark.parametrize("words", ["[aot]", "[sigmoid, aot_unpaired]"])
def test_pairs_that_are_matched_are_not_weighed(words: str):
    (problem,) = problems(f"dpo_loss_type: {words}\ndpo_use_weighting: true\n")
    assert (problem.code, problem.key) == ("SD0642", "dpo_use_weighting")
    assert problems(f"dpo_loss_type: {words}\ndpo_use_weighting: false\n") == []


def test_the_words_are_known_without_torch():
    code = "from siredon.config.shelves import PAIR_LOSSES as p; import sys; print(p.names(), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'sigmoid'" in found.stdout
    assert found.stdout.split()[-1] == "False"


def test_sft_alone_needs_no_reference():
    """What is measured depends on it, and is known before losses are loaded."""
    for word in PAIR_LOSSES.names():
        section = PreferenceSection(rl="dpo", dpo_loss_type=(word,))
        assert PAIR_LOSSES.load(word).needs_reference == section.has_reference
