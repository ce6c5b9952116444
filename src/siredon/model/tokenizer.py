"""Name -> tokenizer, with the special tokens that the config sets."""

from __future__ import annotations

from typing import Any

from siredon.config.model_folder import locate_model
from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.model.locate import explain_loading, find_class


def load_tokenizer(tokenizer: TokenizerSection, model: ModelSection) -> Any:
    """Loads the tokenizer and sets its special tokens.

    Returns:
        A tokenizer of transformers; new tokens, if any, are at the end of its vocabulary.

    Raises:
        ModelError: No such tokenizer class, folder or hub id.
    """
    loaded = find_class(
        "tokenizer_type", tokenizer.tokenizer_type, "Leave it out: AutoTokenizer finds the class."
    )
    name = tokenizer.path_for(model.base_model)
    try:
        built = loaded.from_pretrained(
            locate_model(name), trust_remote_code=model.trust_remote_code, revision=model.revision or "main"
        )
    except (OSError, ValueError) as error:
        raise explain_loading(name, "tokenizer", error) from error
    chosen = tokenizer.special_tokens
    tokens: dict[str, Any] = {
        name: value
        for name, value in chosen.model_dump(exclude={"additional_special_tokens"}).items()
        if value is not None
    }
    if chosen.additional_special_tokens:
        tokens["additional_special_tokens"] = list(chosen.additional_special_tokens)
    if tokens:
        built.add_special_tokens(tokens)
    if built.pad_token is None and built.eos_token is not None:
        built.pad_token = built.eos_token
    return built
