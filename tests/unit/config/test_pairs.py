"""What goes with pairs of answers, and what is refused where it stands."""

from __future__ import annotations

import pytest
from tests.unit.config.texts import MODEL, PAIRS, accept, check

from siredon.config.shelves import pair_types

DPO = "rl: dpo\n"


def find(added: str, start: str = PAIRS) -> list[tuple[str, str, str]]:
    return [(found.code, found.key, found.severity) for found in check(DPO + added, start).diagnostics]


@pytest.mark.parametrize(
    "added",
    [
        "sample_packing: true\n",
        "batch_flattening: true\nmicro_batch_size: 2\n",
        "precompute_ref_log_probs: true\n",
        "rl_beta: 0.5\ndpo_label_smoothing: 0.1\n",
        "dpo_loss_type: [sigmoid]\ndpo_loss_weights: [0.5]\n",
        "dpo_loss_type: [sigmoid, aot]\n",
        "val_set_size: 0.1\nmetric_for_best_model: eval_rewards/accuracies\nsave_strategy: best\n",
    ],
)
def test_what_goes_with_pairs(added: str):
    accept(DPO + added, PAIRS)


@pytest.mark.parametrize(
    ("added", "code", "key"),
    [
        ("train_on_inputs: true\n", "SD0632", "train_on_inputs"),
        ("streaming: true\nmax_steps: 10\n", "SD0632", "streaming"),
        ("neftune_noise_alpha: 5\n", "SD0633", "neftune_noise_alpha"),
        ("log_source_loss: true\n", "SD0633", "log_source_loss"),
        ("lisa_n_layers: 2\nlisa_step_interval: 5\n", "SD0633", "lisa_n_layers"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused_where_it_stands(added: str, code: str, key: str):
    assert (code, key, "error") in find(added)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("chatml.intell", "no format of rows with two answers"),
        ("alpaca", "no format of rows with two answers"),
        ("chat_template.nothing", "no format of rows with two answers"),
        ("my.module", "no format of rows with two answers"),
    ],
)
def test_a_format_of_one_answer_is_refused(written: str, message: str):
    start = MODEL + f"datasets:\n  - path: pairs.jsonl\n    type: {written}\n"
    (found,) = check(DPO, start).diagnostics
    assert (found.code, found.key) == ("SD0630", "datasets.0.type")
    assert message in found.message
    assert "`chat_template.default`" in found.fix


def test_what_is_not_measured_of_pairs_decides_nothing():
    keys = "val_set_size: 0.1\nsave_strategy: best\nmetric_for_best_model: eval_perplexity\n"
    assert [code for code, _, _ in find(keys)] == ["SD0269"]


#: Those of `rl: dpo`; reward models may have more.
TYPES = [kind for kind in pair_types() if not kind.startswith("bradley_terry")]


@pytest.mark.parametrize("name", ["chat_template", "sharegpt", "zephyr", *TYPES])
def test_formats_of_pairs_are_accepted(name: str):
    accept(DPO, MODEL + f"datasets:\n  - path: rows.jsonl\n    type: {name}\n")


@pytest.mark.parametrize(
    "added", ["rl_beta: 0\n", "dpo_label_smoothing: 0.5\n", "dpo_label_smoothing: -0.1\n"]
)
def test_numbers_without_a_meaning_are_refused(added: str):
    assert find(added)


def test_what_follows_from_the_method():
    config = accept(DPO, PAIRS)
    assert config.preference.beta == 0.1
    assert config.preference.pair_losses == ("sigmoid",)
    assert config.preference.pair_weights == (1.0,)
    assert config.shares_sequences
    assert not config.flattens_batches
    assert accept("").preference.formats is not config.preference.formats


@pytest.mark.parametrize("method", ["ipo", "simpo", "orpo"])
def test_the_other_methods_read_the_same_rows(method: str):
    keys = f"rl: {method}\nrl_beta: 2.0\n"
    config = accept(keys, PAIRS)
    assert config.preference.compares
    assert config.preference.pair_losses == (("ipo",) if method == "ipo" else ("sigmoid",))
    assert config.shares_sequences
    (found,) = check(keys, MODEL + "datasets:\n  - path: pairs.jsonl\n    type: alpaca\n").diagnostics
    assert found.code == "SD0630"


def test_simpo_says_how_steep_it_is():
    (found,) = check("rl: simpo\n", PAIRS).diagnostics
    assert (found.code, found.key, found.severity) == ("SD0660", "rl", "warning")


@pytest.mark.parametrize("added", ["simpo_gamma: -1\n", "cpo_alpha: -0.1\n"])
def test_numbers_of_simpo_without_a_meaning_are_refused(added: str):
    assert check("rl: simpo\nrl_beta: 2\n" + added, PAIRS).diagnostics


def test_pairs_without_padding_lie_end_to_end():
    assert accept(DPO + "dpo_padding_free: true\n", PAIRS).flattens_batches
    assert accept(DPO + "dpo_padding_free: true\nsample_packing: true\n", PAIRS).flattens_batches
    assert not accept(DPO + "dpo_padding_free: false\n", PAIRS).flattens_batches


@pytest.mark.parametrize(
    ("added", "code"),
    [
        ("dpo_padding_free: true\nbatch_flattening: false\n", "SD0661"),
        ("dpo_padding_free: true\nsample_packing: true\nmultipack_real_batches: true\n", "SD0661"),
        ("dpo_use_liger_kernel: true\nchunked_cross_entropy: false\n", "SD0662"),
    ],
)
def test_one_thing_is_not_asked_for_and_ruled_out(added: str, code: str):
    (found,) = check(DPO + added, PAIRS).diagnostics
    assert (found.code, found.severity) == (code, "error")


@pytest.mark.parametrize("added", ["precompute_ref_log_probs: true\n", "dpo_loss_type: [sft]\n"])
def test_a_divergence_needs_the_reference_model_in_each_step(added: str):
    assert accept(DPO + "log_kl: true\n", PAIRS).preference.log_kl
    (found,) = check(DPO + "log_kl: true\n" + added, PAIRS).diagnostics
    assert (found.code, found.key, found.severity) == ("SD0725", "log_kl", "error")


@pytest.mark.parametrize(
    ("method", "added", "is_idle"),
    [
        ("simpo\nrl_beta: 2", "log_kl", True),
        ("orpo", "log_kl", True),
        ("simpo\nrl_beta: 2", "log_entropy", False),
        ("orpo", "log_entropy", False),
        ("ipo", "log_kl", False),
    ],
)
def test_what_a_method_does_not_measure_has_no_effect(method: str, added: str, is_idle: bool):
    found = check(f"rl: {method}\n{added}: true\n", PAIRS).diagnostics
    assert [each.code for each in found] == (["SD0315"] if is_idle else [])


@pytest.mark.parametrize(
    ("added", "is_measured"),
    [
        ("rl: dpo\n", True),
        ("rl: ipo\n", True),
        ("rl: dpo\ndpo_loss_type: [sft]\n", False),
        ("rl: simpo\nrl_beta: 2\n", False),
        ("rl: orpo\n", False),
    ],
)
def test_what_is_measured_by_a_reference_is_known_where_there_is_one(added: str, is_measured: bool):
    keys = "val_set_size: 0.1\nsave_strategy: best\nmetric_for_best_model: eval_logps/token_ratios\n"
    assert [found.code for found in check(added + keys, PAIRS).diagnostics] == (
        [] if is_measured else ["SD0269"]
    )
