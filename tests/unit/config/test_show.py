from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.config.texts import MINIMAL

from siredon.config.fields import Section, key
from siredon.config.load import check_config
from siredon.config.overrides import split_words
from siredon.config.schema import key_homes, section_types
from siredon.config.show import (
    Resolved,
    compare_resolved,
    resolve_keys,
    show_differences,
    show_differences_json,
    show_resolved,
    show_resolved_json,
)


@pytest.fixture
def resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows of a file with further lines and words of the command line, by key."""
    monkeypatch.chdir(tmp_path)

    def resolve_text(added: str = "", *words: str, name: str = "config.yml") -> dict[str, Resolved]:
        Path(name).write_text(MINIMAL + added)
        checked = check_config(name, [split_words([name, *words])[1]])
        assert checked.config is not None, checked.diagnostics
        return {row.key: row for row in resolve_keys(checked)}

    return resolve_text


def origin(row: Resolved) -> str:
    return str(row.origin)


def test_a_value_says_where_it_came_from(resolve, monkeypatch: pytest.MonkeyPatch):
    Path("base.yml").write_text("weight_decay: 0.1\nspecial_tokens: {pad_token: a}\n")
    monkeypatch.setenv("RANK_OF_LORA", "8")
    rows = resolve(
        "include: base.yml\nadapter: lora\nlora_r: ${RANK_OF_LORA}\nlora_alpha: 16\nlora_target_linear: true\n",
        "--seed",
        "7",
        "lora_alpha=32",
        "datasets.0.split=train[:10]",
    )
    assert (rows["learning_rate"].value, origin(rows["learning_rate"])) == (1e-4, "config.yml:2")
    assert (rows["weight_decay"].value, origin(rows["weight_decay"])) == (0.1, "base.yml:1")
    assert origin(rows["special_tokens.pad_token"]) == "base.yml:2"
    assert (rows["lora_r"].value, origin(rows["lora_r"])) == (8, "config.yml:8 ${RANK_OF_LORA}")
    assert (rows["seed"].value, origin(rows["seed"])) == (7, "command line")
    assert (rows["lora_alpha"].value, origin(rows["lora_alpha"])) == (32.0, "command line")
    assert (rows["datasets.0.split"].value, origin(rows["datasets.0.split"])) == (
        "train[:10]",
        "command line",
    )
    assert origin(rows["datasets.0.path"]) == "config.yml:4"
    assert (rows["num_epochs"].value, origin(rows["num_epochs"])) == (1.0, "default")


def test_what_follows_from_other_keys_is_derived(resolve):
    rows = resolve(
        "micro_batch_size: 3\nsample_packing: true\nval_set_size: 0.1\neval_steps: 5\nsave_steps: 5\n"
    )
    derived = {row.key: row.value for row in rows.values() if row.origin.kind == "derived"}
    assert derived == {
        "base_model_config": "some/model",
        "tokenizer_config": "some/model",
        "eval_batch_size": 3,
        "eval_sample_packing": True,
        "pad_to_sequence_len": True,
        "min_sample_len": 2,
        "sample_packing_sequentially": False,
        "multipack_real_batches": True,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "max_grad_norm": 1.0,
        "greater_is_better": False,
        "jagged_restart_anneal_steps": 1,
        "jagged_restart_warmup_steps": 10,
        "loss_watchdog_patience": 3,
        "metric_for_best_model": "eval_loss",
        "on_bad_step": "stop",
    }
    assert resolve()["eval_strategy"].value == "no"


def test_every_property_that_a_key_names_exists():
    for name, info in key_homes().items():
        if info.derived:
            owner = section_types()[info.section]
            assert info.derived.removeprefix("Config.") in dir(owner) or info.derived.startswith("Config."), (
                name
            )


def test_a_value_under_an_old_name_says_the_line_of_it(resolve):
    row = resolve("type_of_model: AutoModelForCausalLM\n")["model_type"]
    assert origin(row) == "config.yml:6"


def test_every_key_that_works_is_there_and_no_other(resolve):
    tops = {key.partition(".")[0] for key in resolve()}
    assert tops == {name for name, info in key_homes().items() if info.status == "works"}


def test_only_what_is_set_can_be_shown(resolve):
    rows = tuple(resolve("", "seed=1").values())
    shown = show_resolved([row for row in rows if row.is_set])
    assert "learning_rate" in shown
    assert "seed" in shown
    assert "num_epochs" not in shown
    assert "num_epochs" in show_resolved(rows)


def test_secrets_are_hidden(resolve, monkeypatch: pytest.MonkeyPatch):
    class Keys(Section):
        some_api_key: str | None = key("A secret.", None)

    from siredon.config import show
    from siredon.config.schema import read_fields

    info = read_fields(Keys, "keys")["some_api_key"]
    checked = check_config("config.yml") if Path("config.yml").exists() else None
    resolve()
    checked = check_config("config.yml")
    (row,) = show._resolve(info, ("some_api_key",), "abc", Keys(some_api_key="abc"), checked)
    assert row.shown == "***"


def test_the_same_for_programs(resolve):
    rows = json.loads(show_resolved_json(resolve("", "seed=1").values()))
    found = {row["key"]: row for row in rows}
    assert found["seed"] == {
        "key": "seed",
        "section": "batch",
        "value": 1,
        "origin": "command line",
        "file": "command line",
        "line": 0,
        "variables": [],
    }
    assert found["learning_rate"]["line"] == 2


def test_two_configurations_differ_where_their_values_do(resolve):
    left = resolve("seed: 1\nsample_packing: false\n", name="a.yml")
    right = resolve("seed: 2\nnum_epochs: 1\n", name="b.yml")
    differences = compare_resolved(left.values(), right.values())
    assert [item.key for item in differences] == ["seed"]
    assert show_differences(differences) == "seed\n  - 1  (a.yml:6)\n  + 2  (b.yml:6)"
    assert json.loads(show_differences_json(differences))[0]["right"]["value"] == 2


def test_a_data_set_that_one_lacks_is_a_difference(resolve):
    left = resolve(name="a.yml")
    right = resolve("", "datasets.1.path=x", "datasets.1.type=alpaca", name="b.yml")
    keys = {item.key for item in compare_resolved(left.values(), right.values())}
    assert {"datasets.1.path", "datasets.1.type"} <= keys
    assert all(key.startswith("datasets.1.") for key in keys)
