"""Lengths against what the model can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from siredon.config.model_folder import read_model_config
from siredon.config.rule import Finding, Rule
from siredon.config.sections.data import DataSection
from siredon.config.sections.model import ModelSection

#: Model types with a table of positions, learned or computed once: there is nothing behind its end.
_FIXED = {
    "biogpt",
    "codegen",
    "ctrl",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "imagegpt",
    "mpt",
    "openai-gpt",
    "opt",
}
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def _check_positions(model: ModelSection, data: DataSection) -> Iterator[Finding]:
    """No row is longer than the positions that the model knows.

    The number is read from the model's `config.json`, where it is on this machine.  Behind it a model with a
    table of positions fails, and one with rotary positions was never trained, unless its positions are
    scaled (`rope_scaling`).
    """
    config = read_model_config(model)
    limit = num_positions(config) if config else None
    if config is None or limit is None or data.sequence_len <= limit:
        return
    fails = _text_part(config).get("model_type") in _FIXED
    scaling = "" if fails else ", or scale the positions: `model_config: {rope_scaling: {...}}`"
    yield Finding(
        "sequence_len",
        f"`sequence_len: {data.sequence_len}` is more than the {limit:,} positions of {model.base_model}",
        f"Set `sequence_len: {limit}` or less{scaling}.",
        "error" if fails else "warning",
        value=str(data.sequence_len),
    )


def num_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence of a model's config in tokens, with its scaling; None where it names none."""
    config = _text_part(config)
    found: int | None = next((config[name] for name in _LIMITS if type(config.get(name)) is int), None)
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if found is None or not isinstance(scaling, Mapping):
        return found
    factor, start = scaling.get("factor"), scaling.get("original_max_position_embeddings", found)
    if isinstance(factor, (int, float)) and isinstance(start, int):
        return max(found, int(start * factor))
    return found


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part on text, of a model that also takes images."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else config


RULES = (
    Rule(
        "SD0160",
        _check_positions,
        wrong="base_model: openai-community/gpt2\nlearning_rate: 1e-4\nsequence_len: 2048\n"
        "datasets:\n  - path: rows.jsonl\n    type: alpaca",
        right="base_model: openai-community/gpt2\nlearning_rate: 1e-4\nsequence_len: 1024\n"
        "datasets:\n  - path: rows.jsonl\n    type: alpaca",
        portable=False,
    ),
)
