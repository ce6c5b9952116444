"""Which models are asked: the tuned one, its base, or both."""

from __future__ import annotations

from siredon.config.schema import Config
from siredon.hardware import Hardware
from siredon.serve.engines.transformers import Engine
from siredon.serve.load import load_base, load_tuned
from siredon.serve.prompts import Prompts


def load_asked(config: Config, hardware: Hardware, prompts: Prompts) -> dict[str, Engine]:
    """What is asked, by name: the tuned model, its base, or the base and then the tuned one."""
    if prompts.base:
        return {config.model.base_model: load_base(config, hardware, None)}
    tuned = load_tuned(config, hardware)
    if prompts.compare:
        return {"base model": load_base(config, hardware, tuned), "tuned model": tuned}
    return {str(config.checkpoint.output_folder): tuned}
