"""Tokens whose embeddings nobody has trained."""

from __future__ import annotations

from typing import Any

from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.model.model_config import load_model_config
from siredon.model.tokenizer import load_own_tokenizer


def find_new_tokens(section: TokenizerSection, model: ModelSection, tokenizer: Any) -> dict[str, int]:
    """Token -> id, of those that the trained model has not seen.

    They lie behind the rows of the model, or the config names them and the model's own tokenizer has them not: their
    rows are then among those that many models keep in reserve.  A token that only fills a batch is none of them.
    """
    known = load_model_config(model).get_text_config().vocab_size
    found = {token: index for token, index in tokenizer.get_added_vocab().items() if index >= known}
    named = _list_named(section)
    if named:
        own = load_own_tokenizer(section, model).get_vocab()
        found |= {token: tokenizer.convert_tokens_to_ids(token) for token in named if token not in own}
    padding = tokenizer.pad_token
    return {
        token: index for token, index in found.items() if token != padding or token == tokenizer.eos_token
    }


def _list_named(section: TokenizerSection) -> list[str]:
    """Tokens that the config sets, adds or renames."""
    chosen = section.special_tokens
    roles = (chosen.bos_token, chosen.eos_token, chosen.pad_token, chosen.unk_token)
    named = [token for token in roles if token is not None]
    return [
        *named,
        *chosen.additional_special_tokens,
        *section.tokens,
        *section.added_tokens_overrides.values(),
    ]
