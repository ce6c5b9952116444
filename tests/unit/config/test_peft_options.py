"""What `peft:` takes is what the installed PEFT has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest

from siredon.config.load import check_config
from siredon.config.peft_options import (
    NESTED,
    OPTIONS,
    OWN_KEYS,
    OWN_KEYS_OF_LORA,
    REFUSED,
    SET_BY_RUN,
    STARTS,
)
from siredon.config.schema import key_homes

CLASSES = {
    "lora": "LoraConfig",
    "qlora": "LoraConfig",
    "oft": "OFTConfig",
    "boft": "BOFTConfig",
    "vera": "VeraConfig",
    "ia3": "IA3Config",
    "lokr": "LoKrConfig",
    "hra": "HRAConfig",
    "fourierft": "FourierFTConfig",
    "miss": "MissConfig",
    "delora": "DeloraConfig",
    "randlora": "RandLoraConfig",
    "llama-adapter": "AdaptionPromptConfig",
}


def fields_of(name: str) -> set[str]:
    import peft

    found: dict[str, Any] = vars(peft) | vars(peft.tuners.lora.config)
    return {field.name for field in dataclasses.fields(found[name])}


@pytest.mark.parametrize("word", OPTIONS)
def test_every_setting_of_peft_is_taken_refused_or_a_key(word: str):
    own = OWN_KEYS | (OWN_KEYS_OF_LORA if word in ("lora", "qlora") else {})
    rest = {*own, *REFUSED, *SET_BY_RUN}
    taken = set(OPTIONS[word])
    assert not taken & rest
    assert fields_of(CLASSES[word]) == taken | (fields_of(CLASSES[word]) & rest)


def test_every_word_of_the_key_has_its_settings():
    words = {word for part in get_args(key_homes()["adapter"].field.annotation) for word in get_args(part)}
    assert words - {"mora"} == set(OPTIONS) == set(CLASSES)


def test_settings_inside_settings_and_starts_are_those_of_peft():
    assert set(NESTED["velora_config"]) == fields_of("VeloraConfig")
    assert set(NESTED["eva_config"]) == fields_of("EvaConfig") - {"label_mask_value"}
    assert set(NESTED["loftq_config"]) == fields_of("LoftQConfig")
    from peft import LoraConfig

    for start in STARTS:
        LoraConfig(init_lora_weights=start, eva_config={} if start == "eva" else None)


def test_every_key_that_stands_for_a_setting_exists():
    assert {*OWN_KEYS.values(), *OWN_KEYS_OF_LORA.values()} <= set(key_homes())


@pytest.mark.parametrize("name", ["²", "٣", "3", "①"])
def test_a_name_of_digits_of_any_kind_is_refused_where_it_stands(tmp_path: Path, name: str):
    (tmp_path / "config.yml").write_text(f"adapter: lora\npeft:\n  '{name}': 1\n", encoding="utf-8")
    found = {problem.code: problem for problem in check_config(str(tmp_path / "config.yml")).diagnostics}
    assert found["SD0531"].place.line in (2, 3)
    assert name in found["SD0531"].message
