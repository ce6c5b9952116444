from __future__ import annotations

from collections.abc import Iterator

import pytest

from siredon.config.fields import Section
from siredon.config.idle import find_idle_keys, keys_but
from siredon.config.load import all_rules
from siredon.config.rule import Finding, Rule
from siredon.config.rule_keys import read_keys
from siredon.config.schema import find_key
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.optimizer import ScheduleSection
from siredon.config.sections.packing import PackingSection

WORDS = {"one": ("warmup_steps",), "two": ["lr_scheduler_kwargs"]}


def rule_of(check: object) -> Rule:
    return Rule("SD0999", check, "seed: 1", "seed: 2")  # type: ignore[arg-type]


def read_attribute(batch: BatchSection) -> Iterator[Finding]:
    if batch.max_steps is not None:
        yield Finding("seed", "x", "y")


def read_table(schedule: ScheduleSection) -> Iterator[Finding]:
    for name in WORDS["one"]:
        yield Finding(name, str(schedule), "y")


def read_property(packing: PackingSection) -> Iterator[Finding]:
    if packing.pack_eval:
        yield Finding("", "x", "y")


def read_inside(data: DataSection) -> Iterator[Finding]:
    for entry in data.datasets:
        if entry.split:
            yield Finding("", "x", "y")


def read_whole(batch: BatchSection) -> Iterator[Finding]:
    yield from find_idle_keys(batch, keys_but(BatchSection, "seed"), "nothing")


def call_method(schedule: ScheduleSection) -> Iterator[Finding]:
    if schedule.num_warmup_steps(3) > 1:
        yield Finding("", "x", "y")


@pytest.mark.parametrize(
    ("check", "keys"),
    [
        (read_attribute, {"max_steps", "seed"}),
        (read_table, {"warmup_steps", "lr_scheduler_kwargs"}),
        (read_property, {"sample_packing", "eval_sample_packing"}),
        (read_inside, {"datasets", "datasets.split"}),
        (read_whole, set(BatchSection.model_fields)),
        (call_method, {"warmup_steps", "warmup_ratio"}),
    ],
)
def test_the_keys_that_a_rule_looks_at_are_read_off_its_code(check: object, keys: set[str]):
    assert set(read_keys(rule_of(check))) == keys


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_rule_looks_at_keys_and_its_examples_are_about_them(rule: Rule):
    keys = read_keys(rule)
    assert keys
    assert all(find_key(key.split(".")) for key in keys)
    assert {key.partition(".")[0] for key in keys} & set(rule.keys)


def test_a_section_is_no_key():
    assert issubclass(DataSection, Section)
    assert "data" not in read_keys(rule_of(read_inside))
