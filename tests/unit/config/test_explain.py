from __future__ import annotations

import pytest

from siredon.config.codes import all_pages
from siredon.config.entries import all_names
from siredon.config.explain import explain, suggest_word
from siredon.config.names import INERT, REMOVED, RENAMED


@pytest.mark.parametrize("word", ["SD0101", "sd0101", "0101", " SD0101 "])
def test_a_code_is_explained_however_it_is_written(word: str):
    text = explain(word)
    assert text is not None
    assert text.startswith("SD0101 (error): ")
    assert "Wrong:\n\n    warmup" in text
    assert ": error SD0101: " in text
    assert "Right:\n\n    " in text
    assert "`warmup_ratio`" in text


@pytest.mark.parametrize("word", ["lora_r", "--lora-r", "lora-r"])
def test_a_key_is_explained_however_it_is_written(word: str):
    text = explain(word)
    assert text is not None
    assert text.startswith("lora_r: Rank of LoRA.")
    assert "whole number ≥ 1" in text
    assert "works, since 0.1" in text
    assert "SD0153" in text


def test_a_key_that_is_not_built_says_so():
    text = explain("trl.beta")
    assert text is not None
    assert "not built yet" in text


def test_an_old_name_leads_to_the_new_one():
    text = explain("flash_attention")
    assert text is not None
    assert "old name of attn_implementation: flash_attention_2" in text
    assert "\nattn_implementation: " in text
    assert explain(next(iter(REMOVED))) is not None
    assert explain(next(iter(INERT))) is not None


def test_every_code_and_every_key_is_explained():
    words = [*(page.code for page in all_pages()), *all_names(), *RENAMED, *REMOVED, *INERT]
    assert len(words) > 900
    assert [word for word in words if not explain(word)] == []


def test_lines_fit_a_terminal():
    for page in all_pages():
        text = explain(page.code) or ""
        head = text.partition("Wrong")[0]
        assert max(map(len, head.splitlines())) <= 100


def test_what_is_neither_is_none_and_the_nearest_is_named():
    assert explain("lerning_rate") is None
    assert suggest_word("lerning_rate") == "Did you mean `learning_rate`?"
    assert explain("SD9999") is None
    assert suggest_word("sd0102x") == ""
