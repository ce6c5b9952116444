"""Name -> a model that answers: the base, or what a run made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siredon.config.checks.positions import num_positions
from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.model import ModelSection
from siredon.data.dialogue import build_dialogue
from siredon.data.prompt import build_prompting
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.adapter_folder import add_adapter_, add_frozen_adapters, find_adapter, load_adapter
from siredon.model.load import Source, load_model
from siredon.model.locate import tuned_model
from siredon.model.precision import resolve_precision
from siredon.model.tokenizer import load_tokenizer
from siredon.serve.engines.transformers import Engine
from siredon.serve.names import name_models
from siredon.serve.wanted import Wanted


@dataclass(frozen=True)
class Models:
    """What a server answers with.

    Args:
        engines: Name of a model -> what answers; the tuned one first.
        render: Messages -> the text after which the model answers; raises `RowError`.
        max_positions: Longest prompt with answer, in tokens; None where the model names none.
        defaults: Settings of sampling that the model came with, by the names of transformers.
    """

    engines: Mapping[str, Engine]
    render: Callable[[Sequence[Any]], str]
    max_positions: int | None
    defaults: Mapping[str, Any]


def load_models(config: Config, hardware: Hardware, wanted: Wanted) -> Models:
    """The tuned model, its base where that can be had back, and more adapters: all of them share the base's weights.

    Raises:
        ModelError: Two of them have one name, or there is no adapter beside which others could be.
        CheckpointError: An adapter that is not there, or is of another base.
    """
    tuned = load_tuned(config, hardware)
    names = name_models(config, wanted)
    engines = {names[0]: tuned}
    for number, (name, folder) in enumerate(wanted.adapters, 1):
        add_adapter_(tuned.model, folder.expanduser(), f"served{number}")
        engines[name] = replace(tuned, chosen=f"served{number}")
    if tuned.adapter == "on" and not hides_base(tuned.model, config.adapter):
        engines[names[-1]] = replace(tuned, adapter="off")
    elif tuned.adapter == "on":
        note("the base model is not served: this adapter changes more of it than can be switched off")
    tuned.model.eval()
    render = build_dialogue(
        config.first_dataset, config.tokenizer, tuned.tokenizer, config.preference.formats
    )
    settings = tuned.model.generation_config.to_dict()
    return Models(engines, render, num_positions(tuned.model.config.to_dict()), settings)


def hides_base(adapted: Any, section: AdapterSection) -> bool:
    """Whether the base cannot be had back by switching the adapters off.

    Args:
        adapted: PEFT's model, with all its adapters.
        section: Says what lies beneath them.
    """
    settings = [found.to_dict() for found in adapted.peft_config.values()]
    changed = any(found.get("bias", "none") != "none" or found.get("layer_replication") for found in settings)
    return bool(changed or section.lora_frozen_dirs)


def load_tuned(config: Config, hardware: Hardware) -> Engine:
    """The base model with its adapter, or what a full fine-tune wrote."""
    if not config.writes_adapter:
        return _load_engine(
            tuned_model(config.model_to_load, config.checkpoint.output_folder), config, hardware
        )
    engine = _load_engine(config.model, config, hardware)
    folder = find_adapter(config.adapter, config.checkpoint.output_folder)
    adapted = load_adapter(add_frozen_adapters(engine.model, config.adapter), folder)
    return replace(engine, model=adapted.to(hardware.device).eval(), adapter="on")


def load_base(config: Config, hardware: Hardware, tuned: Engine | None) -> Engine:
    """The base model; the tuned one with its adapter off, where that gives the base back."""
    if tuned is not None and tuned.adapter == "on" and not config.adapter.hides_base:
        return replace(tuned, adapter="off")
    return _load_engine(config.model, config, hardware)


def _load_engine(section: ModelSection, config: Config, hardware: Hardware) -> Engine:
    precision = resolve_precision(config.precision, hardware, has_adapter=True)
    tokenizer = load_tokenizer(config.tokenizer, section)
    source = Source.of(config)
    if section is not config.model:
        source = source.of_output(section)
    model = load_model(source, precision.weights, tokenizer, hardware, seed=config.batch.seed)
    prompting = build_prompting(config.first_dataset, config.tokenizer, tokenizer, config.preference.formats)
    return Engine(model.to(hardware.device).eval(), tokenizer, prompting.stop_ids)
