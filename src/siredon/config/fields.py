"""How a section declares its keys: `key` for one that works, `planned` for one that is known only, `resolved`
for one that only the reading of the file needs.

A section is a frozen pydantic model.  A key's default, type, meaning and status stand on its line
and nowhere else; `tests/design/test_keys.py` holds the status against the code that reads it.
"""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticUndefined

#: Stands for any mapping among the values that are planned.
A_MAPPING = "{}"
#: Stands for any id of the hub, such as that of a kernel, among the values that are planned.
A_HUB_ID = "owner/name"


class Section(BaseModel):
    """A group of keys.  Frozen, and closed: what it does not declare is an unknown key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        arbitrary_types_allowed=False,
        defer_build=True,  # of some 60 sections a file uses a dozen
        validate_by_alias=True,
        validate_by_name=False,
    )


def _read_float(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("expected a number") from None
    return value


def _read_int(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a whole number, not true or false")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (float, str)):
        raise ValueError("expected a whole number")
    return value


def read_no(value: object) -> object:
    """`no` without quotes is false in YAML; where it is a word among others, it is that word."""
    return "no" if value is False else value


def _read_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("expected a text without the character NUL (`\\x00`)")
    return value


#: A number.  `2e-4`, `"2e-4"` and `1` are all numbers; `true`, `.inf` and `.nan` are not.
Float = Annotated[float, BeforeValidator(_read_float), Field(allow_inf_nan=False)]
#: A whole number.  `4` and `4.0` are; `4.5`, `"4"` and `true` are not.
Int = Annotated[int, BeforeValidator(_read_int)]
#: `true` or `false` (YAML also reads `yes`, `no`, `on`, `off` so); never 0, 1 or a string.
Bool = Annotated[bool, Strict()]
#: Text, in which anything may stand but the character NUL: no name of a file can hold that.
Str = Annotated[str, Strict(), AfterValidator(_read_text)]


def list_words(value: Any) -> Any:
    """One word is a list of one."""
    return [value] if isinstance(value, str) else value


#: A name or a list of names; one name is a list of one.
StrList = Annotated[
    tuple[Str, ...],
    BeforeValidator(
        list_words,
        json_schema_input_type=str | tuple[str, ...],
    ),
]
#: Two settings and `auto`, which the hardware decides.
Auto = Annotated[bool | str, Field(union_mode="left_to_right")]


def key(
    doc: str,
    default: Any = PydanticUndefined,
    *,
    name: str | None = None,
    planned_values: tuple[str, ...] = (),
    derived: str = "",
    since: str = "0.1",
    **limits: Any,
) -> Any:
    """Declares a key that works.

    Args:
        doc: One line: what it does, with its unit.
        default: Its value when the file does not set it; leave out if the key is required.
        name: The YAML key, where it cannot be the attribute's own name.
        planned_values: Values of the reference that are known but not built yet; refused with that reason.
            `A_MAPPING` among them is any mapping, `A_HUB_ID` any text with a slash.
        derived: Property of the section that says what holds where the key is not set; with `Config.` before it,
            property of the whole config.
        since: Version in which the key began to work.
        limits: `ge`, `gt`, `le`, `lt`, `min_length`, as pydantic takes them.
    """
    extra = cast(
        "dict[str, Any]",
        {
            "status": "works",
            "planned_values": planned_values,
            "derived": derived,
            "since": since,
        },
    )
    return Field(default, description=doc, alias=name, json_schema_extra=extra, **limits)


def resolved(doc: str, default: Any = None, *, since: str = "0.1") -> Any:
    """Declares a key that works and is used up while the file is read, before there is a config."""
    extra = cast("dict[str, Any]", {"status": "works", "since": since})
    return Field(default, description=doc, json_schema_extra=extra)


def planned(
    doc: str, default: Any = None, *, name: str | None = None, secret: bool = False, **limits: Any
) -> Any:
    """Declares a key of the reference that is not built yet: setting it to anything but `default` is an error."""
    extra = cast("dict[str, Any]", {"status": "planned", "secret": secret})
    return Field(default, description=doc, alias=name, json_schema_extra=extra, **limits)


def nested_section(annotation: Any) -> type[Section] | None:
    """The section inside a type such as `tuple[DatasetEntry, ...]` or `SpecialTokens | None`, if any."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in get_args(annotation):
        found = nested_section(part)
        if found is not None:
            return found
    return None
