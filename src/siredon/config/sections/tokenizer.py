"""Which tokenizer, its special tokens and its chat template."""

from __future__ import annotations

from typing import Any

from siredon.config.fields import Bool, Section, Str, StrList, key, planned


class SpecialTokens(Section):
    """`special_tokens:`, the tokens with a role."""

    bos_token: Str | None = key("First token of a text.", None)
    eos_token: Str | None = key("Token that ends a text; generation stops on it.", None)
    pad_token: Str | None = key("Token that fills a batch; never a target.", None)
    unk_token: Str | None = key("Token for what the vocabulary lacks.", None)
    additional_special_tokens: StrList = key("Further tokens that are never split.", ())


class TokenizerSection(Section):
    """The tokenizer and how a conversation becomes text."""

    tokenizer_config: Str | None = key(
        "Hub id or folder of the tokenizer; default `base_model`.", None, derived="Config.tokenizer_path"
    )
    tokenizer_type: Str = key("Class of transformers that loads the tokenizer.", "AutoTokenizer")
    special_tokens: SpecialTokens = key("Tokens with a role, set or replaced.", SpecialTokens())
    chat_template: Str | None = key(
        "How a conversation becomes text: a template's name, or `tokenizer_default`.", None
    )
    chat_template_jinja: Str | None = key("Text or file of a template of your own.", None)
    chat_template_kwargs: dict[str, Any] = key("Variables that the template can read.", {})
    default_system_message: Str | None = key("System message of a conversation that has none.", None)
    eot_tokens: StrList = key(
        "Tokens that end a turn, beside the end-of-text token and the template's own.", ()
    )
    tokens: StrList = key("Words added to the vocabulary as tokens.", ())
    added_tokens_overrides: dict[int, Str] = key("Id of a reserved token -> its new text.", {})
    tokenizer_legacy: Bool | None = key("Split as the first Llama did, with its quirk at added tokens.", None)
    tokenizer_use_mistral_common: Bool | None = planned("Tokenize by the package mistral-common.")
    tokenizer_save_jinja_files: Bool = key("Write the template as a file beside the tokenizer.", True)

    def path_for(self, base_model: str) -> str:
        """Where the tokenizer of `base_model` is read from."""
        return self.tokenizer_config or base_model
