from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.unit.config.texts import DATASETS, MINIMAL, accept, read

from siredon.config.document import read_document
from siredon.config.fields import Section, nested_section
from siredon.config.json_schema import field_schema, json_schema
from siredon.config.load import check_config
from siredon.config.names import INERT, REMOVED, RENAMED
from siredon.config.schema import Config, key_homes, read_fields, section_types
from siredon.config.shelves import FORMATS, TEMPLATES, pair_types

#: A sweep is a file of another kind.
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yml") if "sweep" not in path.stem)
SCHEMA = json_schema()
#: Any one of these says of which kind a value is.
KINDS = {"type", "anyOf", "enum", "const", "$ref"}


def sections() -> list[type[Section]]:
    """Every section class, nested ones too."""
    found: list[type[Section]] = []
    waiting = list(section_types().values())
    while waiting:
        section = waiting.pop()
        if section not in found:
            found.append(section)
            inner = (nested_section(field.annotation) for field in section.model_fields.values())
            waiting += [section for section in inner if section is not None]
    return found


def own_keys(section: type[Section]) -> list[str]:
    """Keys that the class declares itself, not those of its bases."""
    return [name for name in vars(section).get("__annotations__", {}) if name in section.model_fields]


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and schema of every property, at the top and in every definition."""
    yield from schema["properties"].items()
    for name, definition in schema["$defs"].items():
        for inner, value in definition.get("properties", {}).items():
            yield f"{name}.{inner}", value


# Sections


def test_every_key_has_exactly_one_home():
    claims = [
        (name, home) for home, section in section_types().items() for name in read_fields(section, home)
    ]
    assert len({name for name, _ in claims}) == len(claims)
    assert {name: info.section for name, info in key_homes().items()} == dict(claims)


def test_a_key_with_two_homes_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch):
    fields = {**Config.model_fields, "twin": Config.model_fields["batch"]}
    monkeypatch.setattr(Config, "__pydantic_fields__", fields)
    key_homes.cache_clear()
    with pytest.raises(AssertionError, match="stands in batch and in twin"):
        key_homes()
    monkeypatch.undo()
    key_homes.cache_clear()
    assert "seed" in key_homes()


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_no_section_has_over_40_keys_of_its_own(section: type[Section]):
    assert 1 <= len(own_keys(section)) <= 40 or not section.model_fields


def test_every_key_belongs_to_the_class_that_declares_it():
    for section in sections():
        declared = {name for base in section.__mro__ if issubclass(base, Section) for name in own_keys(base)}
        assert declared == set(section.model_fields)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_is_declared_with_key_or_planned_and_says_what_it_does(section: type[Section]):
    for info in read_fields(section, "").values():
        assert info.status in ("works", "planned")
        assert info.field.description
        assert info.field.description.strip().endswith(".")
        assert "\n" not in info.field.description


@pytest.mark.parametrize("section", [Config, *sections()], ids=lambda section: section.__name__)
def test_every_section_is_frozen_and_closed(section: type[Section]):
    assert section.model_config["frozen"] is True
    assert section.model_config["extra"] == "forbid"


def test_every_default_is_valid():
    config = accept()
    for home, section in section_types().items():
        values = getattr(config, home).model_dump(by_alias=True, exclude_none=True, mode="json")
        section.model_validate(values)


def test_validation_rows_come_from_either_key():
    assert not accept().has_validation
    assert accept("val_set_size: 10\n").has_validation
    assert accept("test_" + DATASETS).has_validation


# The JSON schema


def test_the_schema_has_every_key_every_old_name_and_no_other():
    new = {name for name, value in SCHEMA["properties"].items() if not value.get("deprecated")}
    old = {
        name
        for name in {**RENAMED, **REMOVED, **INERT}
        if "." not in name and not name.startswith("message_field")
    }
    assert new == set(key_homes())
    assert old - set(SCHEMA["properties"]) == set()
    assert set(SCHEMA["properties"]) - new <= old
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["anyOf"] == [
        {"required": ["base_model", "datasets", "learning_rate"]},
        {"required": ["base_model", "learning_rate", "pretraining_dataset"]},
        {"required": ["include"]},
    ]


def test_the_schema_of_one_key_stands_alone():
    jsonschema = pytest.importorskip("jsonschema")
    for path, good, bad in (
        (["learning_rate"], 1e-4, "fast"),
        (["lr_scheduler"], "cosine", "cosin"),
        (["datasets"], [{"path": "a", "type": "alpaca"}], [{"path": "a"}]),
        (["datasets", "train_on_eos"], "turn", "never"),
        (["trl", "beta"], 0.1, "x"),
    ):
        schema = field_schema(path)
        assert schema is not None
        validator = jsonschema.Draft202012Validator(schema)
        assert validator.is_valid(good)
        assert not validator.is_valid(bad)
    assert field_schema(["trl", "no_such_key"]) is None


def test_the_schema_offers_the_formats_and_templates_that_are_built():
    entry = SCHEMA["$defs"]["DatasetEntry"]["properties"]
    assert {"enum": [*FORMATS.names(), *pair_types()]} in entry["type"]["anyOf"]
    assert {"enum": ["tokenizer_default", "jinja", *TEMPLATES.names()]} in SCHEMA["properties"][
        "chat_template"
    ]["anyOf"]


def test_the_schema_says_what_is_not_built():
    assert "Not built yet" in SCHEMA["properties"]["qlora_sharded_model_loading"]["description"]
    assert "Not built yet" not in SCHEMA["properties"]["lora_r"]["description"]


def test_the_schema_is_json():
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


def test_every_property_of_the_schema_has_a_type_and_a_description():
    for name, value in properties(SCHEMA):
        assert (
            KINDS & set(value) or value.get("deprecated") or name == "CompressorOptions.recipe"
        )  # of any kind
        assert value["description"]


def test_every_reference_of_the_schema_is_defined():
    text = json.dumps(SCHEMA)
    names = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert names == set(SCHEMA["$defs"])


def test_no_two_sections_define_one_name_differently():
    definitions: dict[str, Any] = {}
    for section in section_types().values():
        for name, definition in section.model_json_schema(by_alias=True).get("$defs", {}).items():
            assert definitions.setdefault(name, definition) == definition


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_by_the_check_and_by_the_schema(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert check_config(str(path)).diagnostics == ()
    assert list(validator().iter_errors(read_document(str(path)).values)) == []


@pytest.mark.parametrize(
    "text",
    [
        "lora_target_modules: q_proj\n",
        "lora_target_modules: [q_proj]\n",
        "bf16: auto\n",
        "bf16: no\n",
        "micro_batch_size: 4.0\n",
        "special_tokens: {eos_token: x}\n",
        "lr_scheduler_kwargs: {num_cycles: 1}\n",
        "val_set_size: 100\n",
        "seed:\n",
        "optimizer: ~\nsample_packing: null\n",
        "include: []\n",
    ],
)
def test_the_schema_accepts_what_the_check_accepts(text: str):
    accept("adapter: lora\nlora_r: 8\nlora_alpha: 8\nlora_target_linear: yes\n" + text)
    assert list(validator().iter_errors(read(MINIMAL + text).values)) == []


@pytest.mark.parametrize(
    "text",
    [
        "no_such_key: 1\n",
        "seed: x\n",
        "seed: 4.5\n",
        "seed: -1\n",
        "num_epochs: 0\n",
        "sample_packing: 1\n",
        "optimizer: adamm\n",
        "optimizer: sinkgd\n",
        "bf16: fully\n",
        "gc_steps: 2\n",
        "special_tokens: {eos: x}\n",
        "test_datasets: [{path: a}]\n",
        "test_datasets: []\nlora_target_modules: [1]\n",
    ],
)
def test_the_schema_refuses_what_the_check_refuses(text: str):
    assert list(validator().iter_errors(read(MINIMAL + text).values))


def test_the_schema_accepts_variables_and_old_names_that_the_check_translates(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SEED", "7")
    assert accept("seed: ${SEED}\n").batch.seed == 7
    assert validator().is_valid({**read(MINIMAL).values, "seed": "${SEED}"})
    assert not validator().is_valid({**read(MINIMAL).values, "seed": "SEED"})
    assert validator().is_valid({**read(MINIMAL).values, "type_of_model": "AutoModelForCausalLM"})


def test_a_file_without_data_is_refused():
    values = {name: value for name, value in read(MINIMAL).values.items() if name != "datasets"}
    assert not validator().is_valid(values)


@pytest.mark.parametrize(
    "values",
    [
        {"lora_r": 0},
        {"max_steps": 0},
        {"warmup_ratio": 5},
        {"save_steps": 0},
        {"seed": -1},
        {"learning_rate": "fast"},
    ],
    ids=str,
)
def test_the_schema_knows_the_limits_of_numbers(values: dict[str, Any]):
    assert not validator().is_valid({**read(MINIMAL).values, **values})


@pytest.mark.parametrize(
    "values", [{"learning_rate": "2e-4"}, {"lora_alpha": "16"}, {"adam_epsilon": ".5"}], ids=str
)
def test_the_schema_accepts_numbers_in_quotes_where_the_check_does(values: dict[str, Any]):
    assert validator().is_valid({**read(MINIMAL).values, **values})


def test_the_schema_strikes_old_names_inside_mappings_through():
    properties = json_schema()["$defs"]["DatasetEntry"]["properties"]
    assert properties["message_field_role"]["deprecated"] is True
    assert json_schema()["$defs"]["FsdpOptions"]["properties"]["fsdp_offload_params"]["deprecated"] is True
