"""Config and weights -> model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.model_folder import locate_model
from siredon.config.schema import Config
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.model.locate import explain_loading, find_class
from siredon.model.quantized import choose_reading, count_weights, settle_quantized_
from siredon.registry import suggest


@dataclass(frozen=True)
class Source:
    """Which weights are read, and how: the sections of the config that decide it.

    Args:
        model: Which model.
        attention: Which attention.
        placement: Where the weights lie.
        embedding: How many rows the embeddings have, and how new ones start.
        quantization: How many bits a frozen weight has.
        experts: How experts are held and computed.
    """

    model: ModelSection
    attention: AttentionSection
    placement: PlacementSection
    embedding: EmbeddingSection
    quantization: QuantizationSection
    experts: ExpertSection

    @classmethod
    def of(cls, config: Config) -> Source:
        """Those of a config."""
        return cls(
            config.model,
            config.attention,
            config.placement,
            config.embedding,
            config.quantization,
            config.experts,
        )


def load_model(source: Source, dtype: torch.dtype, tokenizer: Any, hardware: Hardware, *, seed: int) -> Any:
    """Loads the base model (or builds it anew, with `reinit_weights`), sized for the tokenizer.

    Args:
        source: Which weights, and how they are read.
        dtype: Format of the weights.
        tokenizer: The vocabulary must cover it; rows are added if it has more tokens.
        hardware: What the model will run on.
        seed: Seed of the random weights of `reinit_weights`: the same ones whoever loads the model.

    Returns:
        A model of transformers on the CPU, in training mode, that keeps no cache: with a cache
        packed documents would not be isolated.

    Raises:
        ModelError: No such model or class, weights that do not fit, or an unknown config setting.
    """
    import transformers

    section, attention = source.model, source.attention
    model_class = find_class("model_type", section.model_type, "Use AutoModelForCausalLM.")
    config = load_model_config(section)
    try:
        if section.reinit_weights:
            transformers.set_seed(seed)
            model = _build_anew(model_class, config, dtype, attention.attn_implementation)
        else:
            model = model_class.from_pretrained(
                locate_model(section.base_model),
                config=config,
                dtype=dtype,
                attn_implementation=attention.attn_implementation,
                trust_remote_code=section.trust_remote_code,
                revision=section.revision or "main",
                use_safetensors=True,
                **choose_reading(source.quantization, config, dtype, hardware),
            )
            settle_quantized_(model)
    except (OSError, ValueError) as error:
        raise explain_loading(section.base_model, "model", error) from error
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    _mend_generation(model.generation_config)
    model.config.use_cache = False
    model.config.pad_token_id = tokenizer.pad_token_id
    model.train()
    return model


def load_model_config(section: ModelSection) -> Any:
    """The model's own config, with the changes of `model_config:`.

    Raises:
        ModelError: No such model, or a setting that its config does not have.
    """
    from transformers import AutoConfig

    try:
        config, unused = AutoConfig.from_pretrained(
            locate_model(section.config_path),
            trust_remote_code=section.trust_remote_code,
            revision=section.revision or "main",
            return_unused_kwargs=True,
            **section.overrides,
        )
    except (OSError, ValueError) as error:
        raise explain_loading(section.config_path, "config", error) from error
    unknown = [name for name in section.overrides if name in unused]
    if unknown:
        raise ModelError(
            f"`model_config: {unknown[0]}` is no setting of {type(config).__name__}",
            suggest(unknown[0], config.to_dict()).strip() or "Remove it.",
        )
    return config


def set_stop_tokens_(model: Any, stop_ids: tuple[int, ...]) -> None:
    """Lets generation end on these tokens, also in plain transformers: they are saved with the weights."""
    model.generation_config.eos_token_id = list(stop_ids)


def find_new_tokens(section: ModelSection, tokenizer: Any) -> list[str]:
    """Tokens for which the trained model has no embedding."""
    known = load_model_config(section).get_text_config().vocab_size
    return [token for token, index in tokenizer.get_added_vocab().items() if index >= known]


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model computes logits only where it is asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class Parameters:
    """How many weights there are, and how many are trained."""

    total: int
    trained: int

    def describe(self) -> str:
        """For people."""
        share = 100 * self.trained / self.total
        return f"{self.total / 1e6:,.1f} M parameters, {self.trained / 1e6:,.2f} M trained ({share:.2f} %)"


def count_parameters(model: Any) -> Parameters:
    """Counts weights; tied ones once."""
    parameters = list(model.parameters())
    return Parameters(
        sum(count_weights(parameter) for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _mend_generation(settings: Any) -> None:
    """A base model that sets a temperature but not `do_sample` could not be saved again: transformers refuses it."""
    sampled = (settings.temperature, settings.top_p, settings.top_k, settings.min_p, settings.typical_p)
    if not settings.do_sample and any(value not in (None, 1.0, 50) for value in sampled):
        settings.do_sample = True


def _build_anew(model_class: Any, config: Any, dtype: torch.dtype, attention: str) -> Any:
    build = model_class.from_config if "from_config" in dir(model_class) else model_class._from_config
    return build(config, dtype=dtype, attn_implementation=attention)
