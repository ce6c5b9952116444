from __future__ import annotations

import pytest
from tests.unit.config.texts import find_one

from siredon.config.entries import Entry, all_groups, all_names, find_entry


def entry(name: str) -> Entry:
    found = find_entry(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("seed", "whole number ≥ 0 and ≤ 4,294,967,295", "`42`"),
        ("learning_rate", "number > 0", "required"),
        ("adam_beta1", "number ≥ 0 and < 1", "`0.9`"),
        ("sample_packing", "true / false", "`false`"),
        ("lora_target_modules", "list of text, or one text", "empty"),
        ("special_tokens", "mapping", "empty"),
        ("datasets.roles", "mapping of text to list of text, or one text", "empty"),
        ("datasets.type", "text or mapping", "required"),
        ("datasets", "list of mappings", "required"),
        ("excess_length_strategy", "`drop` / `truncate` / `raise`", "`drop`"),
        ("chat_template", "text", "unset"),
    ],
)
def test_a_key_in_words(name: str, kind: str, default: str):
    assert (entry(name).kind, entry(name).default) == (kind, default)


def test_only_words_that_work_are_part_of_the_type():
    adapter = entry("adapter")
    assert adapter.kind.startswith("`lora` / `qlora` / ")
    assert "`mora`" not in adapter.kind
    assert "`mora`" in adapter.unbuilt


def test_a_value_that_will_not_be_built_names_the_reason_and_what_comes_nearest():
    problem = find_one("adapter: mora\nlora_target_linear: true\n")
    assert "PEFT itself has no MoRA" in problem.message
    assert all(f"`{word}`" in problem.fix for word in ("randlora", "hra", "miss"))


def test_a_nested_key_is_found_by_its_number_and_by_every_key_that_holds_it():
    assert entry("datasets.0.type") == entry("datasets.type")
    assert entry("test_datasets.type").name == "datasets.type"
    assert find_entry("datasets.no_such") is None
    assert find_entry("seed.no_such") is None
    assert find_entry("no_such") is None


def test_every_key_is_in_one_group():
    names = [entry.name for group in all_groups() for entry in group.entries]
    assert len(set(names)) == len(names)
    assert tuple(names) == all_names()
    assert all(group.about for group in all_groups())


def test_a_default_that_the_meaning_tells_is_not_told_twice():
    assert entry("warmup_steps").explains_default
    assert not entry("chat_template").explains_default
