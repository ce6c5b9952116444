"""Name -> tokenizer, with the tokens that the config sets, adds and renames."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from siredon.config.model_folder import Place, find_place
from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.errors import ModelError
from siredon.model.locate import LOADING_ERRORS, explain_loading, find_class
from siredon.model.renaming import rename_tokens
from siredon.model.weights import alone

_AUTO = "AutoTokenizer"
#: What a tokenizer says that is all in its `tokenizer.json`.
_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
#: Model types for which transformers takes such a tokenizer at its word.
_TRUSTED_TYPES = ("gemma2", "gemma3_text", "gpt2", "granite", "llama", "olmo2", "qwen3", "smollm3")


def load_tokenizer(tokenizer: TokenizerSection, model: ModelSection) -> Any:
    """Loads the tokenizer, renames reserved tokens, sets its special tokens and adds new ones.

    Returns:
        A tokenizer of transformers; new tokens, if any, are at the end of its vocabulary.

    Raises:
        ModelError: No such tokenizer class, folder or hub id, or an edit that it does not take.
    """
    built = load_own_tokenizer(tokenizer, model)
    if tokenizer.added_tokens_overrides:
        built = rename_tokens(built, tokenizer.added_tokens_overrides)
    tokens = read_special_tokens(tokenizer)
    if tokens:
        built.add_special_tokens(tokens)
    if tokenizer.tokens:
        built.add_tokens(list(tokenizer.tokens))
    if built.pad_token is None and built.eos_token is not None:
        built.pad_token = built.eos_token
    if not tokenizer.tokenizer_save_jinja_files:
        # Whoever saves it, the trainer too, then leaves the template in `tokenizer_config.json`.
        built.save_pretrained = partial(built.save_pretrained, save_jinja_files=False)
    return built


def read_special_tokens(tokenizer: TokenizerSection) -> dict[str, Any]:
    """Those with a role, as transformers takes them."""
    chosen = tokenizer.special_tokens
    tokens: dict[str, Any] = {
        name: value
        for name, value in chosen.model_dump(exclude={"additional_special_tokens"}).items()
        if value is not None
    }
    if chosen.additional_special_tokens:
        tokens["additional_special_tokens"] = list(chosen.additional_special_tokens)
    return tokens


def load_own_tokenizer(tokenizer: TokenizerSection, model: ModelSection) -> Any:
    """The tokenizer as it is in its folder."""
    place = find_place(tokenizer.path_for(model.base_model))
    kind = tokenizer.tokenizer_type
    legacy = tokenizer.tokenizer_legacy
    if kind == _AUTO and legacy is None and place.gguf_file is None and _is_plain(Path(place.folder)):
        kind = _PLAIN[0]
    if legacy is None:
        return _read(place, kind, tokenizer, model)
    built = _read(place, kind, tokenizer, model, legacy=legacy)
    other = _read(place, kind, tokenizer, model, legacy=not legacy)
    if not built.is_fast or built.backend_tokenizer.to_str() == other.backend_tokenizer.to_str():
        raise ModelError(
            f"`tokenizer_legacy` has no effect on this tokenizer ({type(built).__name__}): it splits in one way only",
            "Remove the key.",
        )
    return built


def _read(place: Place, kind: str, tokenizer: TokenizerSection, model: ModelSection, **options: Any) -> Any:
    loaded = find_class("tokenizer_type", kind, "Leave it out: AutoTokenizer finds the class.")
    try:
        with alone(place.folder, place.gguf_file) as folder:
            built = loaded.from_pretrained(
                folder,
                trust_remote_code=model.trust_remote_code,
                revision=model.revision or "main",
                **place.options,
                **options,
            )
    except LOADING_ERRORS as error:
        raise explain_loading(tokenizer.path_for(model.base_model), "tokenizer", error) from error
    built.name_or_path = place.folder
    if "legacy" in vars(built):
        # transformers does not write it down, so that a saved tokenizer would split in another way than it did here.
        built.init_kwargs["legacy"] = built.legacy
    return built


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
