"""Name -> tokenizer, with the special tokens that the config sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from siredon.config.model_folder import locate_model
from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.model.locate import explain_loading, find_class

_AUTO = "AutoTokenizer"
#: What a tokenizer says that is all in its `tokenizer.json`.
_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
#: Model types for which transformers takes such a tokenizer at its word.
_TRUSTED_TYPES = ("gemma2", "gemma3_text", "gpt2", "granite", "llama", "olmo2", "qwen3", "smollm3")


def _is_plain(folder: Path) -> bool:
    """Whether AutoTokenizer would find the plain class too, which loads in a third of the time, without PyTorch."""
    try:
        own, model = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("tokenizer_config.json", "config.json")
        )
        return (
            (folder / "tokenizer.json").is_file()
            and own.get("tokenizer_class") in _PLAIN
            and "auto_map" not in own
            and model.get("model_type") in _TRUSTED_TYPES
        )
    except (OSError, ValueError, AttributeError):
        return False


def load_tokenizer(tokenizer: TokenizerSection, model: ModelSection) -> Any:
    """Loads the tokenizer and sets its special tokens.

    Returns:
        A tokenizer of transformers; new tokens, if any, are at the end of its vocabulary.

    Raises:
        ModelError: No such tokenizer class, folder or hub id.
    """
    name = tokenizer.path_for(model.base_model)
    folder = locate_model(name)
    kind = tokenizer.tokenizer_type
    if kind == _AUTO and _is_plain(Path(folder)):
        kind = _PLAIN[0]
    loaded = find_class("tokenizer_type", kind, "Leave it out: AutoTokenizer finds the class.")
    try:
        built = loaded.from_pretrained(
            folder, trust_remote_code=model.trust_remote_code, revision=model.revision or "main"
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
