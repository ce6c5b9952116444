"""The model's own config, with the changes that the YAML makes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siredon.config.model_folder import find_place
from siredon.config.rope import KEYS, changes_positions, read_rope
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.model import ModelSection
from siredon.errors import ModelError
from siredon.model.locate import LOADING_ERRORS, explain_loading, find_class
from siredon.registry import suggest

#: What stays of the model's positions when their scaling is replaced.
_KEPT = ("rope_theta", "partial_rotary_factor")


def load_model_config(section: ModelSection) -> Any:
    """The model's own config, with the changes of `model_config:`.

    Raises:
        ModelError: No such model, or a setting that its config does not have.
    """
    changes = {name: value for name, value in section.overrides.items() if name not in KEYS}
    config, unused = _read(section, changes)
    unknown = [name for name in changes if name in unused]
    if unknown:
        raise ModelError(
            f"`model_config: {unknown[0]}` is no setting of {type(config).__name__}",
            suggest(unknown[0], config.to_dict()).strip() or "Remove it.",
        )
    if changes_positions(section.overrides):
        # The positions that the model was trained on are those of the config as it is.
        own = _read(section, {})[0] if changes else config
        _scale_positions_(config, own.get_text_config().to_dict(), section.overrides)
    return config


def check_experts(section: ExpertSection, config: Any) -> None:
    """An implementation of experts is known, and the model has experts.

    Raises:
        ModelError: Otherwise; the known ones are named.
    """
    name = section.experts_implementation
    if name is None:
        return
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    known = ("eager", *ALL_EXPERTS_FUNCTIONS.keys())
    if name not in known:
        raise ModelError(
            f"`experts_implementation: {name}` is none of this transformers", f"Known: {', '.join(known)}."
        )
    settings = config.get_text_config().to_dict()
    # `num_experts`, `num_local_experts`, `n_routed_experts`: each architecture has its own name.
    if not any(key.endswith("experts") and value not in (None, 0, 1) for key, value in settings.items()):
        raise ModelError(
            f"`experts_implementation: {name}`: a model of type {config.model_type} has no experts",
            "Remove the key.",
        )


def _read(section: ModelSection, changes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    place = find_place(section.config_path)
    loader = find_class("cls_model_config", section.cls_model_config, "Use AutoConfig.")
    try:
        config, unused = loader.from_pretrained(
            place.folder,
            trust_remote_code=section.trust_remote_code,
            revision=section.revision or "main",
            return_unused_kwargs=True,
            **place.options,
            **changes,
        )
    except LOADING_ERRORS as error:
        raise explain_loading(section.config_path, "config", error) from error
    return config, unused


def _scale_positions_(config: Any, own: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Sets the rotary positions, and keeps the base frequency of the model where none is given.

    Args:
        config: The config to change.
        own: The settings of the model as it was trained.
        overrides: `model_config` of the YAML.

    Raises:
        ModelError: The model has no rotary positions, or several kinds of them.
    """
    text = config.get_text_config()
    there = own.get("rope_parameters")
    if not isinstance(there, Mapping):
        raise ModelError(
            f"`model_config`: a model of type {config.model_type} has no rotary positions to scale",
            f"Remove {' and '.join(f'`{name}`' for name in KEYS if name in overrides)}.",
        )
    kinds = [name for name, value in there.items() if isinstance(value, Mapping)]
    given = read_rope(overrides)
    length = own.get("max_position_embeddings")
    if not kinds:
        text.rope_parameters = _merge(there, given, length)
    elif given and set(given) <= set(kinds):
        text.rope_parameters = {
            kind: _merge(there[kind], given[kind], length) if kind in given else dict(there[kind])
            for kind in kinds
        }
    else:
        raise ModelError(
            f"`model_config`: a model of type {config.model_type} has rotary positions of several kinds",
            f"Name them: `rope_scaling: {{{kinds[0]}: {{...}}}}`; there are {', '.join(kinds)}.",
        )
    text.standardize_rope_params()
    text.validate_rope()


def _merge(there: Mapping[str, Any], given: Mapping[str, Any], length: int | None) -> dict[str, Any]:
    """The model's own settings under those given; a new kind of scaling brings all of its own."""
    kind = given.get("rope_type", there.get("rope_type"))
    same = kind == there.get("rope_type")
    merged = {**{name: value for name, value in there.items() if same or name in _KEPT}, **given}
    if kind in ("yarn", "llama3", "longrope") and length is not None:
        merged.setdefault("original_max_position_embeddings", length)
    return merged
