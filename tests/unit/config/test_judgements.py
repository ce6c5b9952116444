"""What goes with judged answers, and what is refused where it stands."""

from __future__ import annotations

import pytest
from tests.unit.config.texts import MINIMAL, MODEL, PAIRS, accept, check

KTO = "rl: kto\n"


def find(added: str, start: str = PAIRS) -> list[tuple[str, str, str]]:
    return [(found.code, found.key, found.severity) for found in check(KTO + added, start).diagnostics]


@pytest.mark.parametrize(
    "added",
    [
        "sample_packing: true\n",
        "batch_flattening: true\nmicro_batch_size: 2\n",
        "precompute_ref_log_probs: true\n",
        "rl_beta: 0.5\nkto_desirable_weight: 1.5\nkto_undesirable_weight: 0.5\n",
        "remove_unused_columns: false\n",
        "val_set_size: 0.1\nmetric_for_best_model: eval_rewards/margins\nsave_strategy: best\n",
    ],
)
def test_what_goes_with_judged_answers(added: str):
    accept(KTO + added, PAIRS)


@pytest.mark.parametrize(
    ("added", "code", "key"),
    [
        ("train_on_inputs: true\n", "SD0671", "train_on_inputs"),
        ("streaming: true\nmax_steps: 10\n", "SD0671", "streaming"),
        ("neftune_noise_alpha: 5\n", "SD0672", "neftune_noise_alpha"),
        ("log_source_loss: true\n", "SD0672", "log_source_loss"),
        ("lisa_n_layers: 2\nlisa_step_interval: 5\n", "SD0672", "lisa_n_layers"),
        ("remove_unused_columns: true\n", "SD0325", "remove_unused_columns"),
    ],
)
def test_what_does_not_go_with_them_is_refused_where_it_stands(added: str, code: str, key: str):
    assert (code, key, "error") in find(added)


@pytest.mark.parametrize("written", ["alpaca", "chat_template.nothing", "my.module", "chat_template.icr"])
def test_another_format_is_refused(written: str):
    start = MODEL + f"datasets:\n  - path: judged.jsonl\n    type: {written}\n"
    (found,) = check(KTO, start).diagnostics
    assert (found.code, found.key) == ("SD0670", "datasets.0.type")
    assert "no format of rows with a judged answer" in found.message
    assert "`chat_template.default`" in found.fix


@pytest.mark.parametrize(
    "added", ["kto_desirable_weight: 0\n", "kto_undesirable_weight: -1\n", "rl_beta: 0\n"]
)
def test_numbers_without_a_meaning_are_refused(added: str):
    assert find(added)


def test_columns_of_judgements_are_for_kto():
    added = "    field_label: good\n    field_completion: answer\n"
    assert find("", PAIRS + added) == []
    codes = [
        (found.code, found.severity)
        for found in check("", MINIMAL.replace("alpaca", "chat_template") + added).diagnostics
    ]
    assert codes == [("SD0674", "warning")] * 2


def test_what_follows_from_the_method():
    preference = accept(KTO, PAIRS).preference
    assert preference.is_unpaired
    assert not preference.compares
    assert preference.formats is not accept("").preference.formats
    assert "kl" in preference.measured
