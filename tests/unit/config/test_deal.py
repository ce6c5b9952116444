from __future__ import annotations

from typing import Any

import pytest
from tests.unit.config.texts import MINIMAL, MODEL, accept, check, find, find_one
from yaml import safe_dump

from siredon.config.deal import allowed_text, built_words, literal_words, suggest
from siredon.config.diagnostics import Place
from siredon.config.fields import Section, nested_section
from siredon.config.load import Checked
from siredon.config.names import INERT, REMOVED, RENAMED
from siredon.config.schema import Config, KeyInfo, find_key, key_homes, read_fields, section_types

HOMES = key_homes()
PLANNED = sorted(name for name, info in HOMES.items() if info.status == "planned")


def line(name: str, value: Any) -> str:
    return safe_dump({name: value})


def default_of(info: KeyInfo) -> Any:
    value = info.field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def all_sections(section: type[Section] = Config) -> set[type[Section]]:
    inner = {nested_section(field.annotation) for field in section.model_fields.values()} - {None}
    return {section}.union(*(all_sections(found) for found in inner))  # type: ignore[arg-type]


def without_rules(checked: Checked) -> list[tuple[str, str]]:
    """Code and key of every problem but those of rules across keys."""
    return [(problem.code, problem.key) for problem in checked.diagnostics if problem.code < "SD0100"]


# Dealing


def test_each_value_reaches_its_section():
    config = accept("lora_r: 8\nadapter: lora\nlora_alpha: 16\nlora_target_linear: yes\nmodel_revision: v1\n")
    assert config.optimizer.learning_rate == 1e-4
    assert config.adapter.lora_r == 8
    assert config.model.revision == "v1"
    assert config.data.datasets[0].path == "rows.jsonl"


def test_null_means_unset():
    assert accept("seed:\nlora_r: null\nwandb_project: ~\n").batch.seed == 42
    assert accept("dataset_prepared_path:\n").adapter.model_fields_set == set()


def test_a_config_is_frozen():
    config = accept()
    with pytest.raises(ValueError, match="frozen"):
        config.batch.seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        config.batch = config.batch  # type: ignore[misc]


# Unknown keys


def test_an_unknown_key_is_an_error_with_the_nearest_known_one():
    problem = find_one("lora_rank_patern: {}\n")
    assert (problem.code, problem.severity, problem.place) == ("SD0003", "error", Place(6, 1))
    assert problem.fix == "Did you mean `lora_rank_pattern`?"


def test_an_unknown_key_unlike_any_other_is_an_error_with_another_way_out():
    assert "config-schema" in find_one("zzzzqqqq: 1\n").fix


@pytest.mark.parametrize("value", ["", "null", "false", "[]", "{}"])
def test_an_unknown_key_is_an_error_even_when_it_is_off(value: str):
    assert find(f"no_such_key: {value}\n") == [("SD0003", "no_such_key")]


def test_an_unknown_key_of_a_nested_section_is_named_with_its_path():
    problem = find_one(
        "test_datasets:\n  - {path: a, type: alpaca}\n  - path: b\n    type: alpaca\n    splitt: train\n"
    )
    assert (problem.code, problem.key, problem.place) == ("SD0003", "test_datasets.1.splitt", Place(10, 5))
    assert problem.fix == "Did you mean `split`?"
    assert "in `test_datasets.1`" in problem.message


def test_an_unknown_key_of_a_nested_mapping_is_an_error():
    assert find("special_tokens:\n  eos_tokn: x\n") == [("SD0003", "special_tokens.eos_tokn")]


def test_the_attribute_of_a_key_with_another_name_is_no_key():
    assert find("revision: main\n") == [("SD0003", "revision")]


def test_keys_are_compared_exactly():
    assert find("Seed: 1\n") == [("SD0003", "Seed")]


def test_every_problem_is_reported_at_once():
    text = "lerning_rate: 1\nseed: true\noptimizer: adamm\nuse_ray: yes\nlora_r: 4\nlora_r: 8\ngc_steps: 2\n"
    assert {code for code, _ in find(text)} == {
        "SD0002",
        "SD0003",
        "SD0004",
        "SD0005",
        "SD0006",
        "SD0010",
    }


# Planned keys and values


@pytest.mark.parametrize("name", PLANNED)
def test_a_planned_key_is_accepted_at_its_default_and_refused_otherwise(name: str):
    info = HOMES[name]
    assert accept(line(name, default_of(info))).model_dump() == accept().model_dump()
    first, *more = without_rules(check(line(name, "something else")))
    assert first == ("SD0004", name)
    assert {found for found, _ in more} <= {
        "SD0005",
        "SD0006",
    }  # beside that, the value may be of a wrong kind


@pytest.mark.parametrize("value", ["false", "[]", "{}", "''"])
def test_a_planned_key_without_a_default_may_be_off(value: str):
    accept(f"kd_ce_alpha: {value}\n")


@pytest.mark.parametrize(
    "text",
    [
        "kd_ce_alpha: 5\n",
        "moe_bnb_fast: false\n",
        "bench_split: test\n",
        "fsdp_config: {offload_params: true}\n",
    ],
)
def test_a_planned_key_that_would_change_something_is_refused(text: str):
    problems = [problem for problem in check(text).diagnostics if problem.code < "SD0100"]
    assert [(problem.code, problem.place) for problem in problems] == [("SD0004", Place(6, 1))]
    assert "Axolotl" in problems[0].fix


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("use_ray: 0.0\n", ["SD0004", "SD0005"]),
        ("expert_parallel_size: 0\n", ["SD0004", "SD0005"]),
        ("swanlab_mode: foo\n", ["SD0004", "SD0006"]),
        ("lora_embedding_kernel: 1\n", ["SD0004", "SD0005"]),
    ],
)
def test_a_value_that_no_version_could_take_is_reported_beside_that_its_key_is_not_built(
    text: str, codes: list[str]
):
    assert [code for code, _ in find(text) if code < "SD0100"] == codes


def test_a_planned_key_of_a_nested_section_is_refused():
    entry = "test_datasets:\n  - path: a\n    type: alpaca\n    "
    assert find(entry + "trust_remote_code: true\n") == [("SD0004", "test_datasets.0.trust_remote_code")]
    accept(entry + "trust_remote_code: false\n")


@pytest.mark.parametrize(
    ("name", "word"),
    [(name, word) for name, info in HOMES.items() for word in info.planned_values],
)
def test_a_planned_value_is_refused_at_the_value(name: str, word: str):
    # A rule may have something to say about the word too
    (problem,) = [problem for problem in check(f"{name}: {word}\n").diagnostics if problem.code < "SD0100"]
    assert (problem.code, problem.place) == ("SD0004", Place(6, len(name) + 3))
    assert f"`{name}: {word}`" in problem.message
    assert f"`{word}`" not in problem.fix


def test_no_planned_value_is_a_value_that_works():
    for info in HOMES.values():
        assert set(info.planned_values) <= set(literal_words(info.field.annotation))
        assert not set(info.planned_values) & set(built_words(info))


# Old names


@pytest.mark.parametrize("name", sorted(RENAMED))
def test_the_new_name_of_an_old_key_exists_and_the_old_one_does_not(name: str):
    new, _, inner = RENAMED[name].new.partition(".")
    everywhere = {key for section in all_sections() for key in read_fields(section, "")}
    if "." in name:  # in that mapping only
        mapping, _, old = name.partition(".")
        assert find_key((mapping, new)) is not None
        assert find_key((mapping, old)) is None
        return
    assert new in (everywhere if inner else HOMES)
    assert name not in HOMES
    assert name not in REMOVED


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_removed_key_is_refused_with_what_to_do(name: str):
    problem = find_one(line(name, 1))
    assert (problem.code, problem.key, problem.severity) == ("SD0010", name, "error")
    assert problem.fix == REMOVED[name]
    assert name not in HOMES


def test_a_removed_key_without_a_value_is_passed_over():
    accept("gc_steps:\n")


@pytest.mark.parametrize("name", sorted(name for name in INERT if "." not in name))
def test_a_key_that_never_did_anything_is_passed_over_with_a_warning(name: str):
    checked = check(line(name, 1))
    (problem,) = checked.diagnostics
    assert (problem.code, problem.key, problem.severity) == ("SD0017", name, "warning")
    assert problem.fix == INERT[name]
    assert checked.config is not None
    assert name not in HOMES
    assert name not in RENAMED
    assert name not in REMOVED


@pytest.mark.parametrize("name", ["sharding_strategy", "fsdp_sharding_strategy"])
def test_settings_that_no_fsdp_needs_are_passed_over_inside_its_mapping_only(name: str):
    found = without_rules(check(f"fsdp_config: {{{name}: FULL_SHARD}}\n"))
    assert found == [("SD0004", "fsdp_config"), ("SD0017", f"fsdp_config.{name}")]
    assert find(f"{name}: FULL_SHARD\n") == [("SD0003", name)]


@pytest.mark.parametrize(
    "text",
    [
        "save_safetensors: false\n",
        "comet_online: false\n",
        "dataset_shard_idx: 0\n",
    ],
)
def test_turning_off_what_is_on_and_a_plain_zero_are_not_passed_over(text: str):
    assert ("SD0004", text.partition(":")[0]) in find(text)


@pytest.mark.parametrize("name", ["kernels-community/flash-attn3", "kernels-community/flash-attn2@v4"])
def test_a_kernel_of_the_hub_is_a_value(name: str):
    checked = check(f"attn_implementation: {name}\n")
    assert {problem.code for problem in checked.diagnostics} <= {"SD0687"}  # where kernels is not installed


@pytest.mark.parametrize("name", ["/flash-attn3", "owner/", "a/b/c", "owner/name@", "owner/name name"])
def test_what_looks_like_a_kernel_of_the_hub_and_is_none_is_refused(name: str):
    assert find(f"attn_implementation: {name}\n") == [("SD0006", "attn_implementation")]


def test_a_renamed_key_works_with_a_warning_that_names_the_new_one():
    checked = check("type_of_model: LlamaForCausalLM\n")
    (problem,) = checked.diagnostics
    assert (problem.code, problem.severity, problem.place) == ("SD0009", "warning", Place(6, 1))
    assert problem.fix == "Write `model_type`."
    assert checked.config is not None
    assert checked.config.model.model_type == "LlamaForCausalLM"


def test_a_wrong_value_of_a_renamed_key_is_reported_where_it_stands():
    problems = check("type_of_model: 5\n").diagnostics
    assert [(problem.code, problem.place) for problem in problems] == [
        ("SD0009", Place(6, 1)),
        ("SD0005", Place(6, 16)),
    ]


def test_an_old_switch_becomes_a_value():
    checked = check("eager_attention: true\n")
    assert checked.config is not None
    assert checked.config.attention.attn_implementation == "eager"
    assert [problem.fix for problem in checked.diagnostics] == ["Write `attn_implementation: eager`."]


@pytest.mark.parametrize("value", ["false", "no", ""])
def test_an_old_switch_that_is_off_is_passed_over(value: str):
    assert accept(f"xformers_attention: {value}\n").attention.attn_implementation == "sdpa"


def test_an_old_switch_for_what_cannot_train_is_refused():
    assert find("sage_attention: true\n") == [("SD0009", "sage_attention"), ("SD0700", "attn_implementation")]


@pytest.mark.parametrize("value", ["maybe", "1", "'false'", "[true]"])
def test_an_old_switch_is_true_or_false(value: str):
    assert find(f"eager_attention: {value}\n") == [("SD0005", "eager_attention")]


@pytest.mark.parametrize(
    "text",
    [
        "type_of_model: A\nmodel_type: B\n",
        "model_type: B\ntype_of_model: A\n",
        "model_type: A\ntype_of_model: A\n",
        "attn_implementation: sdpa\nsdp_attention: true\n",
    ],
)
def test_old_and_new_name_together_are_refused(text: str):
    (problem,) = check(text).diagnostics
    assert problem.code == "SD0011"
    assert problem.fix == f"Remove `{problem.key}`."
    assert problem.key in RENAMED


def test_an_old_name_beside_an_empty_new_one_works():
    checked = check("model_type:\ntype_of_model: A\n")
    assert [problem.code for problem in checked.diagnostics] == ["SD0009"]
    assert checked.config is not None
    assert checked.config.model.model_type == "A"


def test_two_old_names_of_one_key_are_refused():
    assert find("sdp_attention: true\neager_attention: true\n") == [
        ("SD0009", "sdp_attention"),
        ("SD0011", "eager_attention"),
    ]


CHAT = MODEL + "datasets:\n  - path: rows.jsonl\n    type: chat_template\n    "


def mappings_of(added: str) -> dict[str, str]:
    checked = check(added, CHAT)
    assert {problem.code for problem in checked.diagnostics} == {"SD0009"}
    assert checked.config is not None
    return checked.config.data.datasets[0].message_property_mappings


def test_an_old_name_moves_into_a_nested_key():
    assert mappings_of("message_field_role: from\n    message_field_content: value\n") == {
        "role": "from",
        "content": "value",
    }


@pytest.mark.parametrize(
    "text",
    [
        "message_field_role: from\n    message_property_mappings: {content: value}\n",
        "message_property_mappings: {content: value}\n    message_field_role: from\n",
    ],
)
def test_an_old_name_joins_the_nested_key_that_is_there_in_any_order(text: str):
    assert mappings_of(text) == {"role": "from", "content": "value"}


@pytest.mark.parametrize(
    "text",
    [
        "message_field_role: from\n    message_property_mappings: {role: who}\n",
        "message_property_mappings: {role: who}\n    message_field_role: from\n",
    ],
)
def test_an_old_name_and_its_nested_new_one_together_are_refused_in_any_order(text: str):
    assert find(text, CHAT) == [("SD0011", "datasets.0.message_field_role")]


def test_an_old_name_beside_a_nested_key_of_the_wrong_kind_is_no_traceback():
    codes = find("message_property_mappings: text\n    message_field_role: from\n", CHAT)
    assert ("SD0005", "datasets.0.message_property_mappings") in codes


def test_a_wrong_value_of_an_old_nested_name_is_reported_where_it_stands():
    problems = check("message_field_role: 5\n", CHAT).diagnostics
    assert [(problem.code, problem.place) for problem in problems] == [
        ("SD0009", Place(6, 5)),
        ("SD0005", Place(6, 25)),
    ]


def test_the_prefix_inside_fsdp_config_is_an_old_name():
    text = "fsdp_config:\n  fsdp_offload_params: true\n  version: 2\n  fsdp_typo: 1\n"
    assert without_rules(check(text)) == [
        ("SD0004", "fsdp_config"),
        ("SD0009", "fsdp_config.fsdp_offload_params"),
        ("SD0009", "fsdp_config.version"),
        ("SD0003", "fsdp_config.fsdp_typo"),
    ]


def test_a_name_that_is_old_in_one_mapping_is_unknown_elsewhere():
    assert find("version: 2\n") == [("SD0003", "version")]
    assert find("fsdp_offload_params: true\n") == [("SD0003", "fsdp_offload_params")]


def test_a_setting_of_the_model_moves_into_its_mapping():
    checked = check("rope_scaling: {rope_type: yarn, factor: 2}\nmodel_config: {rope_theta: 5}\n")
    assert [problem.code for problem in checked.diagnostics] == ["SD0009"]
    assert checked.config is not None
    assert checked.config.model.overrides == {
        "rope_theta": 5,
        "rope_scaling": {"rope_type": "yarn", "factor": 2},
    }


@pytest.mark.parametrize(("word", "value"), [("offload", True), ("offload_disk", "disk")])
def test_an_old_value_becomes_a_key_of_its_own(word: str, value: object):
    problems = [
        problem
        for problem in check(f"gradient_checkpointing: {word}\n").diagnostics
        if problem.code < "SD0100"
    ]
    assert [(problem.code, problem.key, problem.place.column) for problem in problems] == [
        ("SD0009", "gradient_checkpointing", 25),
    ]
    assert f"`activation_offloading: {str(value).lower()}`" in problems[0].fix


def test_an_old_name_where_its_new_one_does_not_belong_is_unknown():
    (problem,) = check("message_field_role: from\n").diagnostics
    assert (problem.code, problem.key, problem.place) == ("SD0003", "message_field_role", Place(6, 1))


def test_a_removed_name_of_a_dataset_is_refused_there():
    assert find("conversation: vicuna\n", CHAT) == [("SD0010", "datasets.0.conversation")]


# Words


def test_the_words_of_a_type_are_found_at_any_depth():
    info = HOMES["bf16"]
    assert built_words(info) == ("auto", "full")
    assert allowed_text(info) == "`auto`, `full`, or true or false without quotes"
    assert allowed_text(HOMES["save_strategy"]) == "`no`, `steps`, `epoch`, `best`"
    assert allowed_text(HOMES["sample_packing"]) == ""


def test_a_suggestion_is_near_or_absent():
    assert suggest("cosin", ["cosine", "linear"]) == "Did you mean `cosine`? "
    assert suggest("quux", ["cosine", "linear"]) == ""


def test_the_least_configuration_sets_every_section():
    config = accept(start=MINIMAL)
    assert set(section_types()) == set(type(config).model_fields)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("lr: 1e-4\n", "Write `learning_rate`."),
        ("per_device_train_batch_size: 1\n", "Write `micro_batch_size`."),
        (
            "test_datasets:\n  - path: a\n    type: alpaca\n    sequence_len: 5\n",
            "`sequence_len` is a key of the top level",
        ),
    ],
)
def test_a_key_of_another_tool_or_place_is_told_where_it_belongs(text: str, fix: str):
    (problem,) = check(text).diagnostics
    assert problem.code == "SD0003"
    assert problem.fix.startswith(fix)
    assert problem.edit is None


def test_a_problem_behind_an_alias_is_shown_once():
    text = "test_datasets:\n  - &a {path: a, type: alpaca, splitt: x}\n  - *a\n  - *a\n"
    assert [problem.code for problem in check(text).diagnostics] == ["SD0003"]


@pytest.mark.parametrize("key", ["eval_strategy", "save_strategy"])
def test_no_without_quotes_is_the_word_where_it_is_one(key: str):
    accept(f"{key}: no\n")


@pytest.mark.parametrize("text", ["debug:\n", "debug: false\n", "eval_table_size: 0\n", "local_rank:\n"])
def test_an_old_key_that_is_empty_or_off_asks_for_nothing(text: str):
    accept(text)
