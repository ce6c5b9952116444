"""Which weights are trained when not all of them are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key

_ROWS = re.compile(r"^(?P<name>.+)\[(?P<first>\d*)(?P<colon>:?)(?P<end>\d*)\]$")
#: A dot that is meant as one: not written so already, and not the wildcard before a quantifier.
_PLAIN_DOT = re.compile(r"(?<!\\)\.(?![*+?{])")
_LAYERS = re.compile(r"^(\d+)(?:-(\d+))?$")


@dataclass(frozen=True)
class Pattern:
    """An entry of `unfrozen_parameters`.

    Args:
        text: As it stands in the file.
        name: Regular expression that a name must begin with.
        first: First of the rows.
        end: One past the last of them; None for all that follow.
        has_rows: Whether only rows are meant and not whole weights.
    """

    text: str
    name: str
    first: int = 0
    end: int | None = None
    has_rows: bool = False


def read_pattern(text: str) -> Pattern:
    """Takes `name[a:b]` apart.

    A dot stands for itself, unless a quantifier follows it: names of weights are full of dots, and the files
    that come from elsewhere do not escape them.
    """
    found = _ROWS.match(text)
    if found is None or not (found["first"] or found["colon"]):
        return Pattern(text, _PLAIN_DOT.sub(r"\.", text))
    first = int(found["first"] or 0)
    end = int(found["end"]) if found["end"] else None
    if not found["colon"]:
        end = first + 1
    return Pattern(text, _PLAIN_DOT.sub(r"\.", found["name"]), first, end, has_rows=True)


def read_layers(text: str) -> range | None:
    """`4` and `4-7` as numbers; None for anything else."""
    found = _LAYERS.match(text)
    return range(int(found[1]), int(found[2] or found[1]) + 1) if found else None


def _read_texts(value: object) -> object:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in items]


_Layers = Annotated[
    tuple[Str, ...],
    BeforeValidator(_read_texts, json_schema_input_type=int | str | tuple[int | str, ...]),
]


class FreezingSection(Section):
    """Weights that are trained, by name, by layer, or by their signal-to-noise ratio (Spectrum)."""

    unfrozen_parameters: StrList | None = key(
        "Regular expressions, each for the beginning of a name: only these weights are trained, or only some "
        "rows of them, as in `model.embed_tokens.weight$[:128]`.",
        None,
    )
    freeze_layers: _Layers | None = key(
        "Numbers of the blocks that are not trained, from 0: `0-3`, or a list such as `[0, 1, 8-11]`.", None
    )
    spectrum_top_fraction: Float | None = key(
        "Spectrum: of each kind of matrix, the fraction with the highest signal-to-noise ratio is trained.",
        None,
        gt=0,
        le=1,
    )
    spectrum_model_name: Str | None = key(
        "Spectrum: not needed, and told so: the ratios are measured on the weights of `base_model` itself.",
        None,
    )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """`unfrozen_parameters`, taken apart."""
        return tuple(read_pattern(text) for text in self.unfrozen_parameters or ())

    @property
    def frozen_layers(self) -> tuple[int, ...]:
        """Numbers of the blocks in `freeze_layers`, each once."""
        found = (read_layers(text) or () for text in self.freeze_layers or ())
        return tuple(sorted({number for numbers in found for number in numbers}))


class ReloraSection(Section):
    """ReLoRA: adapters are merged now and then, and begin anew."""

    relora: Bool | None = key(
        "Merge the adapter into the base every `jagged_restart_steps`, and begin anew.", None
    )
    relora_prune_ratio: Float = key(
        "How much of the optimizer's state a restart clears, as a fraction.", 0.9, ge=0, le=1
    )
    relora_prune_method: Literal["magnitude", "random", "reset"] = key(
        "What is cleared: where the mean gradient is small, at random, or all.", "magnitude"
    )
    relora_cpu_offload: Bool | None = key("Do the merging in RAM.", None)


class LisaSection(Section):
    """LISA: a few layers are trained at a time."""

    lisa_n_layers: Int | None = key("Layers trained at a time.", None, ge=1)
    lisa_step_interval: Int | None = key("Optimizer steps until others take their turn.", None, ge=1)
    lisa_layers_attribute: Str = key("Where the model keeps its list of layers.", "model.layers")
