from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import build_tokenizer
from transformers import AutoTokenizer, LlamaTokenizer

from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import SpecialTokens, TokenizerSection
from siredon.errors import ModelError
from siredon.model.tokenizer import load_tokenizer

#: Two reserved tokens of the tests' tokenizer.
RENAMED = {6: "<think>", 7: "</think>"}


def load(folder: Path, **keys: Any) -> Any:
    return load_tokenizer(TokenizerSection(**keys), ModelSection(base_model=str(folder)))


def encode(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return found


def test_a_reserved_token_gets_exactly_the_new_text_at_its_id(
    model_folder: Path, tmp_path: Path, capsys: Any
):
    before = load(model_folder)
    after = load(model_folder, added_tokens_overrides=RENAMED)
    assert "<|start_header_id|> is now <think>" in capsys.readouterr().err
    after.save_pretrained(tmp_path)
    for tokenizer in (after, AutoTokenizer.from_pretrained(tmp_path)):
        expected = [*encode(before, "a"), 6, *encode(before, " b"), 7, *encode(before, "\n")]
        assert encode(tokenizer, "a<think> b</think>\n") == expected
        assert [tokenizer.decode([index]) for index in RENAMED] == list(RENAMED.values())
        assert len(tokenizer) == len(before)
        others = {token: index for token, index in tokenizer.get_vocab().items() if index not in RENAMED}
        assert others == {token: index for token, index in before.get_vocab().items() if index not in RENAMED}
        assert len(encode(tokenizer, "<|start_header_id|>")) > 1
    assert after.name_or_path == before.name_or_path


def test_renaming_again_what_a_run_saved_changes_nothing(model_folder: Path, tmp_path: Path, capsys: Any):
    load(model_folder, added_tokens_overrides=RENAMED).save_pretrained(tmp_path)
    capsys.readouterr()
    again = load(tmp_path, added_tokens_overrides=RENAMED)
    assert encode(again, "<think>") == [6]
    assert capsys.readouterr().err == ""


def test_two_reserved_tokens_can_change_places(model_folder: Path):
    swapped = load(model_folder, added_tokens_overrides={6: "<|end_header_id|>", 7: "<|start_header_id|>"})
    assert encode(swapped, "<|end_header_id|><|start_header_id|>") == [6, 7]


def test_a_renamed_token_keeps_its_role(tmp_path: Path):
    build_tokenizer(bos="<s>", add_bos=True).save_pretrained(tmp_path)
    renamed = load(tmp_path, added_tokens_overrides={3: "<begin>"})
    assert renamed.bos_token == "<begin>"
    assert renamed.encode("a")[0] == renamed.bos_token_id == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({300: "<think>"}, "300 is no added token.*Near it are"),
        ({6: "<s>"}, "'<s>' is a token already, 3"),
    ],
)
def test_what_cannot_be_renamed_says_why(model_folder: Path, names: dict[int, str], message: str):
    with pytest.raises(ModelError) as caught:
        load(model_folder, added_tokens_overrides=names)
    assert re.search(message, str(caught.value), re.DOTALL)


def test_tokens_are_added_at_the_end(model_folder: Path, tmp_path: Path):
    added = load(
        model_folder, tokens=["<think>", "</think>"], special_tokens=SpecialTokens(pad_token="<pad>")
    )
    assert encode(added, "<think></think><pad>") == [513, 514, 512]
    added.save_pretrained(tmp_path)
    assert encode(AutoTokenizer.from_pretrained(tmp_path), "a<think>")[1] == 513


@pytest.mark.parametrize("keeps_file", [True, False])
def test_the_template_is_a_file_or_in_the_config(model_folder: Path, tmp_path: Path, keeps_file: bool):
    tokenizer = load(model_folder, tokenizer_save_jinja_files=keeps_file)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file() == keeps_file
    inside = "chat_template" in json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert inside != keeps_file
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tokenizer of the first Llama's kind, and its folder."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    LlamaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges).save_pretrained(
        tmp_path
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


@pytest.mark.parametrize(("legacy", "ids"), [(None, [8, 2, 7]), (False, [8, 2, 7]), (True, [8, 2, 8])])
def test_the_first_llama_puts_a_blank_behind_an_added_token(llama: Path, legacy: bool | None, ids: list[int]):
    tokenizer = load(llama, tokenizer_legacy=legacy)
    assert encode(tokenizer, "ab</s>ab") == ids
    tokenizer.save_pretrained(llama / "saved")
    assert encode(AutoTokenizer.from_pretrained(llama / "saved"), "ab</s>ab") == ids


def test_a_tokenizer_that_splits_in_one_way_only_refuses_the_key(model_folder: Path):
    with pytest.raises(ModelError, match=r"tokenizer_legacy.*has no effect on this tokenizer"):
        load(model_folder, tokenizer_legacy=True)
