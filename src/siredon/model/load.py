"""Config and weights -> model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from siredon.config.model_folder import find_place
from siredon.config.schema import Config
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.placement import PlacementSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.attention import check_kind, register_attention
from siredon.model.embeddings import fit_embeddings_, read_spread
from siredon.model.experts import report_experts
from siredon.model.locate import LOADING_ERRORS, explain_loading, find_class
from siredon.model.model_config import check_experts, load_model_config
from siredon.model.placement import check_placement, is_spread, place_weights
from siredon.model.quantized import (
    choose_dtype,
    choose_reading,
    count_weights,
    leave_scores_whole_,
    read_method,
    settle_quantized_,
)
from siredon.model.score_head import has_score_head, start_score_head_
from siredon.model.weights import check_whole, read_gguf


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
        shapes: Tensors without numbers, by name, in place of those of the files, which hold them in few bits.
    """

    model: ModelSection
    attention: AttentionSection
    placement: PlacementSection
    embedding: EmbeddingSection
    quantization: QuantizationSection
    experts: ExpertSection
    shapes: Mapping[str, torch.Tensor] | None = None

    @classmethod
    def of(cls, config: Config, *, places: bool = False) -> Source:
        """Those of a config.

        Args:
            config: The whole config.
            places: Whether the weights are laid out as `device_map` says, which is for training alone.
        """
        return cls(
            config.model_to_load,
            config.attention,
            config.placement if places else PlacementSection(),
            config.embedding,
            config.quantization,
            config.experts,
        )

    def of_output(self, model: ModelSection) -> Source:
        """The same for a model that a run wrote: whole whatever it began from, its embeddings as they are."""
        return replace(self, model=model, embedding=EmbeddingSection(), quantization=QuantizationSection())


def load_model(source: Source, dtype: torch.dtype, tokenizer: Any, hardware: Hardware, *, seed: int) -> Any:
    """Loads the base model (or builds it anew, with `reinit_weights`), sized for the tokenizer.

    Args:
        source: Which weights, and how they are read.
        dtype: Format of the weights.
        tokenizer: The vocabulary must cover it; rows are added if it has more tokens.
        hardware: What the model will run on.
        seed: Seed of the random weights of `reinit_weights` and of new rows: the same whoever loads the model.

    Returns:
        A model of transformers on the CPU (or where `device_map` lays it), in training mode, that keeps no cache:
        with a cache packed documents would not be isolated.

    Raises:
        ModelError: No such model or class, weights that do not fit, or an unknown config setting.
    """
    import transformers

    section = source.model
    model_class = find_class("model_type", section.model_type, "Use AutoModelForCausalLM.")
    config = load_model_config(section)
    check_experts(source.experts, config)
    try:
        if section.reinit_weights:
            transformers.set_seed(seed)
            model = _build_anew(model_class, config, dtype, source)
        else:
            model = _read_weights(model_class, config, dtype, source, hardware, seed)
    except LOADING_ERRORS as error:
        raise explain_loading(section.base_model, "model", error) from error
    check_kind(model, source.attention)
    fit_embeddings_(model, tokenizer, source.embedding, seed=seed)
    if model.can_generate():
        mend_generation_(model.generation_config)
    model.config.use_cache = False
    model.config.pad_token_id = tokenizer.pad_token_id
    model.train()
    return model


def load_skeleton(source: Source, tokenizer: Any, hardware: Hardware, *, seed: int) -> Any:
    """The model without its weights: every tensor has its name and its shape, and is on PyTorch's device `meta`.

    It is what `load_model` gives in fp32, the size of the embeddings included, and takes no memory.

    Raises:
        ModelError: As `load_model`.
    """
    aside = replace(source, placement=PlacementSection(device_map="meta"))
    return load_model(aside, torch.float32, tokenizer, hardware, seed=seed)


def build_skeleton(source: Source, tokenizer: Any, hardware: Hardware) -> Any:
    """The same by the config of the model alone: its weights need not be on this machine.

    How it generates is that of `generation_config.json`, if there is one.

    Raises:
        ModelError: As `load_model`.
    """
    section = source.model.model_copy(update={"reinit_weights": True})
    plain = replace(source, model=section, quantization=QuantizationSection())
    with torch.device("meta"):
        model = load_model(plain, torch.float32, tokenizer, hardware, seed=0)
    if model.can_generate():
        _read_generation_(model, section)
        mend_generation_(model.generation_config)
    if read_method(model.config):  # Of the base on disk; what was trained of it is whole
        del model.config.quantization_config
    return model


def set_stop_tokens_(model: Any, stop_ids: tuple[int, ...]) -> None:
    """Lets generation end on these tokens, also in plain transformers: they are saved with the weights.

    A model that judges generates nothing.
    """
    if not model.can_generate():
        return
    model.generation_config.eos_token_id = list(stop_ids)


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model computes logits only where it is asked to.

    One that is spread over several devices does not: the places would lie on another device than its last layer.
    """
    return not is_spread(model) and "logits_to_keep" in inspect.signature(model.forward).parameters


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


def mend_generation_(settings: Any) -> None:
    """A base model that sets a temperature but not `do_sample` could not be saved again: transformers refuses it."""
    sampled = (settings.temperature, settings.top_p, settings.top_k, settings.min_p, settings.typical_p)
    if not settings.do_sample and any(value not in (None, 1.0, 50) for value in sampled):
        settings.do_sample = True


def _build_anew(model_class: Any, config: Any, dtype: torch.dtype, source: Source) -> Any:
    build = model_class.from_config if "from_config" in dir(model_class) else model_class._from_config
    return build(config, dtype=dtype, **_architecture(source))


def _architecture(source: Source) -> dict[str, Any]:
    """Which implementations the model computes with."""
    options: dict[str, Any] = {"attn_implementation": register_attention(source.attention)}
    if source.experts.experts_implementation is not None:
        options["experts_implementation"] = source.experts.experts_implementation
    return options


def _read_weights(
    model_class: Any, config: Any, dtype: torch.dtype, source: Source, hardware: Hardware, seed: int
) -> Any:
    """The model with the weights of its folder, all of them; a head of scores may be new.

    Raises:
        ModelError: Weights that the model needs and the folder lacks.
        OSError, ValueError: As transformers raises them.
    """
    section = source.model
    place = find_place(section.base_model)
    if source.shapes is not None:
        del config.quantization_config
    options: dict[str, Any] = {
        "config": config,
        "dtype": choose_dtype(config, dtype),
        "trust_remote_code": section.trust_remote_code,
        "revision": section.revision or "main",
        "output_loading_info": True,
        **_architecture(source),
        **choose_reading(source.quantization, config, dtype, hardware, source.experts),
        **place_weights(source.placement, hardware),
        **section.model_kwargs,
    }
    if "Classification" in section.model_type:
        leave_scores_whole_(options)
    method = read_method(config)
    if source.shapes is not None:
        model, info = _take_shapes(model_class, source.shapes, options)
        _read_generation_(model, section)
    elif place.gguf_file is not None:
        model, info = read_gguf(model_class, str(place.folder), place.gguf_file, options)
    else:
        model, info = _read_safely(model_class, place.folder, section, options)
    if has_score_head(model) and start_score_head_(model, info["missing_keys"], read_spread(model), seed):
        note("model: its head of scores is new")
    check_whole(section.base_model, type(model).__name__, info)
    check_placement(model, hardware)
    settle_quantized_(model, method)
    report_experts(model, source.experts, source.quantization)
    return model


def _take_shapes(model_class: Any, shapes: Mapping[str, torch.Tensor], options: dict[str, Any]) -> Any:
    """The model with these tensors."""
    with torch.device("meta"):
        own_class = type(model_class.from_config(options["config"]))
    return own_class.from_pretrained(None, state_dict=dict(shapes), **options)


def _read_generation_(model: Any, section: ModelSection) -> None:
    """How a model generates that was built without its files: as `generation_config.json` says, if there is one."""
    from transformers import GenerationConfig

    with suppress(OSError):  # There is none
        model.generation_config = GenerationConfig.from_pretrained(
            find_place(section.base_model).folder, revision=section.revision or "main"
        )


def _read_safely(model_class: Any, folder: str, section: ModelSection, options: dict[str, Any]) -> Any:
    """Safetensors; pickles only where `allow_pickle` says so and there is nothing else.

    A pickle is read by `torch.load` with `weights_only`, which builds tensors and runs no code.
    """
    try:
        return model_class.from_pretrained(folder, use_safetensors=True, **options)
    except OSError:
        if not section.allow_pickle:
            raise
    note(f"model: no safetensors in {section.base_model}; its pickles are read (`allow_pickle`)")
    return model_class.from_pretrained(folder, use_safetensors=False, weights_only=True, **options)
