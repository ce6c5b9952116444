"""The keys as a JSON Schema, for editors and validators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from siredon.config.deal import built_words
from siredon.config.names import INERT, REMOVED, RENAMED
from siredon.config.schema import KeyInfo, find_key, read_fields, section_types
from siredon.config.shelves import FORMATS, TEMPLATES, pair_types

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = "EnvironmentVariable"
_REFERENCE = "#/$defs/"
#: Limits as pydantic names them where a key has several kinds of values -> as JSON Schema does.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_NUMBER = r"^\s*[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file.

    It accepts what `check` accepts of single keys: nothing as a value, environment variables, and old names, which
    it marks as deprecated.  What rules across keys refuse it cannot know.
    """
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {_VARIABLE: {"type": "string", "pattern": r"\$\{[A-Za-z_]"}}
    required: list[str] = []
    for home, section in section_types().items():
        schema = section.model_json_schema(by_alias=True, mode="validation")
        definitions |= schema.get("$defs", {})
        for name, info in read_fields(section, home).items():
            properties[name] = _complete(schema["properties"][name], info)
        required += schema.get("required", [])
    properties |= _old_names(properties)
    return {
        "$schema": DIALECT,
        "title": "Siredon configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        # What a file does not say may stand in one that it includes
        "anyOf": [
            *({"required": sorted([*required, rows])} for rows in ("datasets", "pretraining_dataset")),
            {"required": ["include"]},
        ],
        "$defs": {name: _complete_section(definition) for name, definition in sorted(definitions.items())},
    }


def field_schema(path: Sequence[str | int]) -> dict[str, Any] | None:
    """The schema of one key, such as `("datasets", "type")`, with the definitions it needs; None for no key."""
    if find_key(path) is None:
        return None
    schema = json_schema()
    found: dict[str, Any] = schema
    for step in path:
        if isinstance(step, str):
            found = _section_of(found, schema["$defs"])["properties"][step]
    needed = _needed(found, schema["$defs"])
    return {"$schema": DIALECT, **found} | ({"$defs": needed} if needed else {})


def _complete_section(definition: dict[str, Any]) -> dict[str, Any]:
    """A nested section whose values may be left empty, too."""
    if "properties" not in definition:
        return definition
    completed = {name: _accept_more(schema) for name, schema in definition["properties"].items()}
    if {"path", "type", "ds_type"} <= set(completed):  # an entry of `datasets`
        completed["type"] = _suggest(completed["type"], (*FORMATS.names(), *pair_types()))
        completed["chat_template"] = _suggest(
            completed["chat_template"], ("tokenizer_default", "jinja", *TEMPLATES.names())
        )
    return {**definition, "properties": completed | _old_names_inside(completed)}


def _old_names_inside(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The old names of keys of a mapping; those of one mapping only are named with it."""
    found = {}
    for name, rename in RENAMED.items():
        if rename.new.partition(".")[0] in properties and name not in properties and rename.value is None:
            about = f"Old name of `{rename.new}`. {rename.reason}"
            found[name.rpartition(".")[2]] = {"deprecated": True, "description": about}
    for name, reason in INERT.items():
        owner, _, inner = name.rpartition(".")
        if owner == "fsdp_config" and "reshard_after_forward" in properties:
            found[inner] = {"deprecated": True, "description": reason}
    return found


def _complete(schema: dict[str, Any], info: KeyInfo) -> dict[str, Any]:
    """The schema of a key, with its status, less the words that are not built."""
    schema = _without_words(schema, set(built_words(info)))
    if info.name == "chat_template":
        schema = _suggest(schema, ("tokenizer_default", "jinja", *TEMPLATES.names()))
    return _accept_more(schema)


def _accept_more(schema: dict[str, Any]) -> dict[str, Any]:
    """A key may also be empty, or an environment variable; one that is not built says so."""
    about: dict[str, Any] = {name: schema[name] for name in ("description", "default") if name in schema}
    if schema.get("status") == "planned":
        about["description"] = f"{about.get('description', '')} Not built yet: it may stand at its default."
    kinds = _accept_quoted([_state_limits(kind) for kind in schema.get("anyOf") or [_kind(schema)]])
    kinds = [
        *kinds,
        *([] if {"type": "null"} in kinds else [{"type": "null"}]),
        {"$ref": _REFERENCE + _VARIABLE},
    ]
    return {**about, "anyOf": kinds}


def _state_limits(kind: dict[str, Any]) -> dict[str, Any]:
    """A number with its limits as JSON Schema calls them."""
    if kind.get("type") not in ("integer", "number"):
        return kind
    return {_LIMITS.get(name, name): value for name, value in kind.items()}


def _accept_quoted(kinds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a number may have a fraction, it may stand in quotes."""
    takes_fractions = any(kind.get("type") == "number" for kind in kinds)
    return [*kinds, {"type": "string", "pattern": _NUMBER}] if takes_fractions else list(kinds)


def _kind(schema: dict[str, Any]) -> dict[str, Any]:
    about = {"title", "description", "default", "status", "planned_values", "derived", "since"}
    return {name: value for name, value in schema.items() if name not in about}


def _without_words(schema: dict[str, Any], built: set[str]) -> dict[str, Any]:
    """The schema with only those words of an enumeration that work."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_without_words(kind, built) for kind in schema["anyOf"]]}
    if "enum" in schema:
        return {**schema, "enum": [word for word in schema["enum"] if word in built or not built]}
    return schema


def _suggest(schema: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The schema with words that an editor offers; others may come with packages."""
    kinds = schema.get("anyOf") or [_kind(schema)]
    return {**schema, "anyOf": [{"enum": list(words)}, *kinds]}


def _old_names(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The old names of top-level keys, which an editor strikes through."""
    old = {
        name: {"deprecated": True, "description": f"Old name of `{rename.new}`. {rename.reason}"}
        for name, rename in RENAMED.items()
        if rename.new.partition(".")[0] in properties and "." not in name
    }
    gone: dict[str, Any] = {
        name: {"deprecated": True, "description": reason, "type": "null"}
        for name, reason in REMOVED.items()
        if name not in properties
    }
    idle = {
        name: {"deprecated": True, "description": reason} for name, reason in INERT.items() if "." not in name
    }
    return old | gone | idle


def _section_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the mapping inside a schema: itself, behind a reference, or in a list."""
    if "properties" in schema:
        return schema
    if "$ref" in schema:
        return _section_of(definitions[schema["$ref"].removeprefix(_REFERENCE)], definitions)
    kinds = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    for kind in [*kinds, *([schema["items"]] if "items" in schema else ())]:
        found = _section_of(kind, definitions)
        if found:
            return found
    return {}


def _needed(schema: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that a schema refers to, at any depth."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            name = str(part.get("$ref", "")).removeprefix(_REFERENCE)
            if name and name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
            waiting += [value for value in part.values() if isinstance(value, (dict, list))]
    return dict(sorted(found.items()))
