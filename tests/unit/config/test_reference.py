"""What `siredon check` says of a reference that the file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import build_model, build_tokenizer
from tests.unit.config.texts import DATASETS, PAIRS, accept, check, find, find_one

DPO = "rl: dpo\n"


def write_tokenizer(folder: Path, vocab: object, added: list[dict[str, object]] | None = None) -> str:
    folder.mkdir()
    found = {"model": {"vocab": vocab}, "added_tokens": added or []}
    (folder / "tokenizer.json").write_text(json.dumps(found))
    (folder / "config.json").write_text("{}")
    return str(folder)


def pairs_of(model: str) -> str:
    return PAIRS.replace("some/model", model)


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_methods_with_a_reference_take_one(method: str, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    keys = (
        f"rl: {method}\nreference_model: other/model\nreference_revision: v2\nreference_adapter: {tmp_path}\n"
    )
    config = accept(keys)
    section = config.reference_to_load
    assert (section.base_model, section.revision) == ("other/model", "v2")
    assert config.model.base_model == "some/model"


def test_how_a_reference_is_read_is_what_the_file_says_of_the_base():
    keys = (
        "trust_remote_code: true\nbase_model_config: some/config\nmodel_revision: v1\nreinit_weights: true\n"
    )
    section = accept(DPO + keys + "reference_model: other/model\n").reference_to_load
    assert section.trust_remote_code
    # Of the base alone
    assert (section.config_path, section.revision, section.reinit_weights) == ("other/model", None, False)
    config = accept(DPO + keys)
    assert config.reference_to_load is config.model


@pytest.mark.parametrize(
    ("added", "start"),
    [
        ("rl: orpo\n", PAIRS),
        ("rl: simpo\nrl_beta: 2\n", PAIRS),
        ("rl: dpo\ndpo_loss_type: [sft]\n", PAIRS),
        ("reward_model: true\n", PAIRS),
        ("", DATASETS.join(("base_model: some/model\nlearning_rate: 1e-4\n", ""))),
    ],
)
def test_without_a_comparison_a_reference_has_no_effect(added: str, start: str):
    (found,) = check(added + "reference_model: other/model\n", start).diagnostics
    assert (found.code, found.key, found.severity) == ("SD0714", "reference_model", "warning")


def test_a_revision_is_that_of_a_model():
    found = find_one(DPO + "reference_revision: v1\n")
    assert (found.code, found.key, found.severity) == ("SD0714", "reference_revision", "warning")


@pytest.mark.parametrize("name", ["ref_model", "reference_modell"])
def test_names_of_other_tools_lead_to_it(name: str):
    found = find_one(DPO + f"{name}: other/model\n")
    assert found.code == "SD0003"
    assert "`reference_model`" in found.fix


def test_an_adapter_that_is_not_there_is_found(tmp_path: Path):
    found = find_one(DPO + f"reference_adapter: {tmp_path}\n")
    assert (found.code, found.key, found.severity) == ("SD0716", "reference_adapter", "error")
    assert "holds no adapter_config.json" in found.message


@pytest.mark.parametrize(
    ("here", "there", "odd"),
    [
        ({"a": 0, "b": 1}, {"a": 0, "b": 1}, ""),
        ({"a": 0, "b": 1}, {"a": 1, "b": 0}, "'a' has the id 1, not 0; 2 tokens differ"),
        ({"a": 0, "b": 1}, {"a": 0}, "'b' has the id none, not 1; 1 tokens differ"),
        ([["a", 0.5], ["b", 0.1]], {"a": 0, "b": 1}, ""),
        ([["b", 0.5], ["a", 0.1]], {"a": 0, "b": 1}, "'a' has the id 0, not 1"),
        ({"a": 0}, "no vocabulary", ""),
    ],
)
def test_another_vocabulary_is_found_where_it_is_on_this_machine(
    tmp_path: Path, here: object, there: object, odd: str
):
    one, other = write_tokenizer(tmp_path / "one", here), write_tokenizer(tmp_path / "other", there)
    problems = check(DPO + f"reference_model: {other}\n", pairs_of(one)).diagnostics
    assert [(found.code, found.key) for found in problems] == ([("SD0715", "reference_model")] if odd else [])
    assert all(odd in found.message for found in problems)
    assert find(DPO + "reference_model: other/model\n", pairs_of(one)) == []


def test_tokens_beside_the_vocabulary_count(tmp_path: Path):
    one = write_tokenizer(tmp_path / "one", {"a": 0}, [{"id": 1, "content": "<x>"}])
    other = write_tokenizer(tmp_path / "other", {"a": 0}, [{"id": 1, "content": "<y>"}])
    assert find(DPO + f"reference_model: {other}\n", pairs_of(one)) == [("SD0715", "reference_model")]
    # The tokenizer of the run may lie elsewhere
    keys = f"tokenizer_config: {other}\nreference_model: {other}\n"
    assert find(DPO + keys, pairs_of(one)) == []


def test_real_tokenizers_are_read(tmp_path: Path):
    names = {"one": 512, "same": 512, "smaller": 400}
    for name, size in names.items():
        tokenizer = build_tokenizer(size=size)
        tokenizer.save_pretrained(tmp_path / name)
        build_model(len(tokenizer)).config.save_pretrained(tmp_path / name)
    start = pairs_of(str(tmp_path / "one"))
    assert find(DPO + f"reference_model: {tmp_path / 'same'}\n", start) == []
    assert find(DPO + f"reference_model: {tmp_path / 'smaller'}\n", start) == [("SD0715", "reference_model")]


# The base as a second model

#: `FIRST` stands for the folder of an adapter.
CONTINUED = "adapter: lora\nlora_model_dir: FIRST\n"
LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
SECOND = "rl_adapter_ref_model: true\n"


@pytest.fixture
def first(tmp_path: Path) -> str:
    (tmp_path / "adapter_config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize(
    "adapter",
    [
        CONTINUED,
        LORA + "lora_frozen_dirs: [FIRST]\n",
        LORA + "peft_init_lora_weights: pissa\n",
        LORA + "peft_init_lora_weights: false\n",
        "adapter: ia3\nlora_target_linear: true\n",
    ],
)
def test_the_base_is_a_second_model_beside_a_policy_that_starts_elsewhere(adapter: str, first: str):
    config = accept(DPO + adapter.replace("FIRST", first) + SECOND)
    assert config.reference.has_second_model
    assert config.reference_to_load is config.model


@pytest.mark.parametrize(
    "adapter", ["", LORA, LORA + "peft_init_lora_weights: gaussian\n", LORA + "lora_bias: all\n"]
)
def test_where_it_gives_the_same_as_the_default_is_said(adapter: str):
    found = find_one(DPO + adapter + SECOND)
    assert (found.code, found.key, found.severity) == ("SD0718", "rl_adapter_ref_model", "warning")
    assert find(DPO + adapter + "rl_adapter_ref_model: false\n") == []


def test_it_is_for_methods_with_a_reference(first: str):
    adapter = CONTINUED.replace("FIRST", first)
    assert find("rl: orpo\n" + adapter + SECOND) == [("SD0714", "rl_adapter_ref_model")]
    assert find("rl: orpo\n" + adapter + "rl_adapter_ref_model: false\n") == []
    assert find(adapter + SECOND) == [("SD0714", "rl_adapter_ref_model")]


def test_two_references_are_one_too_many(first: str):
    for key in ("reference_model: other/model\n", f"reference_adapter: {first}\n"):
        found = find_one(DPO + CONTINUED.replace("FIRST", first) + SECOND + key)
        assert (found.code, found.key, found.severity) == ("SD0717", "rl_adapter_ref_model", "error")


# A reference that follows the policy

SYNC = "trl:\n  sync_ref_model: true\n"


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_methods_with_a_reference_let_it_follow(method: str):
    keys = f"rl: {method}\n{SYNC}"
    sync = accept(keys).online.reference_sync
    assert sync is not None
    assert (sync.ref_model_mixup_alpha, sync.ref_model_sync_steps) == (0.9, 64)
    sync = accept(keys + "  ref_model_mixup_alpha: 0.6\n  ref_model_sync_steps: 9\n").online.reference_sync
    assert sync is not None
    assert (sync.ref_model_mixup_alpha, sync.ref_model_sync_steps) == (0.6, 9)
    assert accept(f"rl: {method}\n").online.reference_sync is None
    assert accept(f"rl: {method}\ntrl:\n  sync_ref_model: false\n").online.reference_sync is None


@pytest.mark.parametrize(
    "value", ["ref_model_mixup_alpha: 0", "ref_model_mixup_alpha: 1.1", "ref_model_sync_steps: 0"]
)
def test_numbers_without_a_meaning_are_refused(value: str):
    found = find_one(DPO + SYNC + f"  {value}\n")
    assert (found.code, found.severity) == ("SD0005", "error")
    assert found.key == f"trl.{value.partition(':')[0]}"


def test_other_keys_of_the_block_are_still_not_built():
    assert find(DPO + SYNC + "  temperature: 0.5\n") == [
        ("SD0004", "trl.temperature"),
        ("SD0315", "trl.temperature"),
    ]


def test_how_it_follows_is_said_beside_that_it_does():
    found = find_one(DPO + "trl:\n  ref_model_sync_steps: 9\n")
    assert (found.code, found.key, found.severity) == ("SD0719", "trl.ref_model_sync_steps", "warning")


def test_without_a_reference_nothing_follows():
    for method in ("rl: orpo\n", "rl: dpo\ndpo_loss_type: [sft]\n"):
        found = find_one(method + SYNC)
        assert (found.code, found.key, found.severity) == ("SD0315", "trl.sync_ref_model", "warning")
    assert find(SYNC) == [("SD0315", "trl")]


def test_what_cannot_follow_is_refused_where_it_is_asked_for(first: str):
    for keys in (
        "precompute_ref_log_probs: true\n",
        "reference_model: other/model\n",
        f"reference_adapter: {first}\n",
        CONTINUED.replace("FIRST", first) + SECOND,
    ):
        found = find_one(DPO + keys + SYNC)
        assert (found.code, found.key, found.severity) == ("SD0722", "trl.sync_ref_model", "error")
