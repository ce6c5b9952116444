"""The model, its head and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.data import DataSection, PromptFormat
from siredon.config.sections.model import ModelSection
from siredon.config.sections.multimodal import MultimodalSection
from siredon.config.sections.preference import PreferenceSection, RewardSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.sections.tokenizer import SpecialTokens, TokenizerSection
from siredon.config.shelves import split_type
from siredon.registry import Shelf


def _check_template(tokenizer: TokenizerSection, data: DataSection) -> Iterator[Finding]:
    """A chat template is named, or written out.

    Beside the name of another template, the text of `chat_template_jinja` would be passed over; `jinja` says that
    there is such a text.
    """
    asked = [("", tokenizer.chat_template, tokenizer.chat_template_jinja)]
    for list_name, entries in (("datasets", data.datasets), ("test_datasets", data.test_datasets)):
        asked += [
            (f"{list_name}.{index}.", entry.chat_template, entry.chat_template_jinja)
            for index, entry in enumerate(entries)
        ]
    for where, name, text in asked:
        if text and name not in (None, "jinja"):
            yield Finding(
                f"{where}chat_template",
                f"`chat_template: {name}` and `chat_template_jinja` are two templates",
                "Remove one of them.",
            )
        if name == "jinja" and not text:
            yield Finding(
                f"{where}chat_template",
                "`chat_template: jinja` needs `chat_template_jinja`, the template itself",
                "Add `chat_template_jinja: template.jinja`, a file or text, or name a template.",
            )


def _check_system_message(
    tokenizer: TokenizerSection,
    data: DataSection,
    streaming: StreamingSection,
    preference: PreferenceSection,
) -> Iterator[Finding]:
    """A default system message comes with data that a chat template renders.

    Other formats have prompts of their own.
    """
    entries = (*data.datasets, *data.test_datasets)
    shelf = preference.formats
    if not tokenizer.default_system_message or any(_may_chat(entry.type, shelf) for entry in entries):
        return
    if entries or streaming.texts:
        yield Finding(
            "default_system_message",
            "`default_system_message` has no effect: no data set is rendered by a chat template",
            "Use `type: chat_template` for a data set, or remove the key.",
            "warning",
        )


def _may_chat(choice: str | PromptFormat, shelf: Shelf) -> bool:
    """Whether a format is rendered by a chat template, or may be: a function may return messages."""
    if not isinstance(choice, str):
        return False
    name, mark, _ = split_type(choice)
    if name not in shelf.names():
        return mark == "."
    part = shelf.load(name)
    return callable(part) or bool(part.uses_template)


def _check_mistral(
    tokenizer: TokenizerSection, multimodal: MultimodalSection, data: DataSection
) -> Iterator[Finding]:
    """The tokenizer of mistral-common is taken as it is.

    It has its own chat template and its own tokens, and cannot be given others.
    """
    if not tokenizer.tokenizer_use_mistral_common:
        return
    asked = (
        ("special_tokens", tokenizer.special_tokens != SpecialTokens()),
        ("tokens", bool(tokenizer.tokens)),
        ("added_tokens_overrides", bool(tokenizer.added_tokens_overrides)),
        ("chat_template", tokenizer.chat_template not in (None, "tokenizer_default")),
        ("chat_template_jinja", tokenizer.chat_template_jinja is not None),
        *(
            (f"datasets.{index}.{name}", value not in (None, "tokenizer_default"))
            for index, entry in enumerate(data.datasets)
            for name, value in (
                ("chat_template", entry.chat_template),
                ("chat_template_jinja", entry.chat_template_jinja),
            )
        ),
        ("processor_kwargs", bool(multimodal.processor_kwargs)),
    )
    for name, is_set in asked:
        if is_set:
            yield Finding(
                name,
                f"`{name}` cannot be used with `tokenizer_use_mistral_common`",
                f"Remove `{name}`, or `tokenizer_use_mistral_common`.",
            )


def _check_method(preference: PreferenceSection) -> Iterator[Finding]:
    """A run judges by `rl`, `reward_model` or `process_reward_model`, not by two of them.

    Each chooses a loss, a head and the shape of the rows.
    """
    switches = (
        ("rl", preference.rl is not None),
        ("reward_model", preference.reward_model),
        ("process_reward_model", preference.process_reward_model),
    )
    asked = [name for name, is_on in switches if is_on]
    if len(asked) > 1:
        yield Finding(asked[-1], f"{list_keys(asked)} exclude each other", "Keep one of them.")


def _check_outputs(preference: PreferenceSection, reward: RewardSection) -> Iterator[Finding]:
    """A reward model has one output, its score.

    Bradley-Terry compares one number per answer.
    """
    if preference.reward_model and reward.num_labels not in (None, 1):
        yield Finding(
            "num_labels",
            f"`reward_model` learns one score, but `num_labels: {reward.num_labels}` asks for "
            f"{reward.num_labels} outputs",
            "Remove `num_labels`, or write `num_labels: 1`.",
        )


def _check_head(preference: PreferenceSection, model: ModelSection) -> Iterator[Finding]:
    """A model that judges has a head for scores.

    A class such as `AutoModelForCausalLM` has a head for tokens; without `model_type` the right class is taken.
    """
    switches = (
        ("reward_model", preference.reward_model),
        ("process_reward_model", preference.process_reward_model),
    )
    asked = [name for name, is_set in switches if is_set]
    if asked and "model_type" in model.model_fields_set and model.model_type.endswith("ForCausalLM"):
        right = "SequenceClassification" if preference.reward_model else "TokenClassification"
        yield Finding(
            "model_type",
            f"`model_type: {model.model_type}` has no head for the scores of `{asked[0]}`",
            f"Remove `model_type`, or write `model_type: AutoModelFor{right}`.",
        )


def _check_fresh(model: ModelSection, adapter: AdapterSection) -> Iterator[Finding]:
    """Weights that begin at random are trained.

    Beside an adapter the base weights are frozen, so `reinit_weights` leaves noise that nobody can use.
    """
    if model.reinit_weights and adapter.adapter is not None:
        yield Finding(
            "reinit_weights",
            f"`reinit_weights: true` with `adapter: {adapter.adapter}` freezes random weights",
            "Remove `adapter`, or `reinit_weights`.",
            "warning",
        )


_JINJA = "chat_template_jinja: template.jinja"
_MISTRAL = "tokenizer_use_mistral_common: true"

RULES = (
    Rule("SD0249", _check_template, wrong=f"chat_template: chatml\n{_JINJA}", right=_JINJA),
    Rule(
        "SD0250",
        _check_system_message,
        wrong="default_system_message: Be brief.\ndatasets:\n  - path: rows.jsonl\n    type: completion",
        right="default_system_message: Be brief.\ndatasets:\n  - path: rows.jsonl\n    type: chat_template",
    ),
    Rule(
        "SD0251",
        _check_mistral,
        wrong=f"{_MISTRAL}\nspecial_tokens:\n  pad_token: <pad>",
        right=_MISTRAL,
    ),
    Rule(
        "SD0252",
        _check_method,
        wrong="rl: dpo\nreward_model: true",
        right="rl: dpo\nreward_model: false",
    ),
    Rule(
        "SD0253",
        _check_outputs,
        wrong="reward_model: true\nnum_labels: 2",
        right="reward_model: true\nnum_labels: 1",
    ),
    Rule(
        "SD0254",
        _check_head,
        wrong="reward_model: true\nmodel_type: AutoModelForCausalLM",
        right="reward_model: true\nmodel_type: AutoModelForSequenceClassification",
    ),
    Rule(
        "SD0255",
        _check_fresh,
        wrong="adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nreinit_weights: true",
        right="reinit_weights: true",
    ),
)
