"""Name -> a model that answers: the base, or what a run made of it."""

from __future__ import annotations

from dataclasses import replace

from siredon.config.schema import Config
from siredon.config.sections.model import ModelSection
from siredon.data.prompt import build_prompting
from siredon.hardware import Hardware
from siredon.model.adapter_folder import add_frozen_adapters, find_adapter, load_adapter
from siredon.model.load import Source, load_model
from siredon.model.locate import tuned_model
from siredon.model.precision import resolve_precision
from siredon.model.tokenizer import load_tokenizer
from siredon.serve.engines.transformers import Engine
from siredon.serve.prompts import Prompts


def load_asked(config: Config, hardware: Hardware, prompts: Prompts) -> tuple[Engine | None, Engine | None]:
    """The base model and the tuned one, where they are asked."""
    tuned = None if prompts.base else load_tuned(config, hardware)
    base = load_base(config, hardware, tuned) if prompts.base or prompts.compare else None
    return base, tuned


def load_tuned(config: Config, hardware: Hardware) -> Engine:
    """The base model with its adapter, or what a full fine-tune wrote."""
    if not config.writes_adapter:
        return _load_engine(tuned_model(config.model, config.checkpoint.output_folder), config, hardware)
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
    stop_ids = build_prompting(config.first_dataset, config.tokenizer, tokenizer).stop_ids
    return Engine(model.to(hardware.device).eval(), tokenizer, stop_ids)
