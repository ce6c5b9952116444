"""Which weights of a model are trained, where no adapter says so: by name, by rows, by block, or by Spectrum."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.sections.freezing import FreezingSection, Pattern
from siredon.errors import ModelError
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.spectrum import find_strong_matrices
from siredon.registry import suggest

#: How many names a message lists.
_SHOWN = 12


@dataclass(frozen=True)
class Partial:
    """A weight of which some rows are trained.

    Args:
        name: Its first name in the model.
        weight: Of shape [R, ...].
        frozen: The rows that are not trained, shape [R].
    """

    name: str
    weight: torch.nn.Parameter
    frozen: torch.Tensor


def choose_trained_(base: Any, section: FreezingSection, hardware: Hardware) -> None:
    """Freezes what the section does not let train; without any of its keys nothing is frozen.

    Of a weight that trains in part, gradients of the other rows are zero, so that they count in no norm; what an
    optimizer does beside gradients, `train/callbacks/rows.py` undoes.

    Args:
        base: A model of transformers, all of whose weights are trained.
        section: What is trained.
        hardware: Where Spectrum computes.

    Raises:
        ModelError: A pattern or number that means nothing in this model.
    """
    if section.spectrum_top_fraction is not None:
        if section.spectrum_model_name:
            note(
                f"Spectrum: measured on the weights of base_model; `spectrum_model_name: "
                f"{section.spectrum_model_name}` is not needed"
            )
        trained = find_strong_matrices(base, section.spectrum_top_fraction, hardware)
        _freeze_all_but_(base, {id(weight) for weight in trained})
    elif section.patterns:
        rows = _find_trained(base, section.patterns)
        _freeze_all_but_(base, set(rows))
        for partial in find_partial(base, section):
            partial.weight.register_hook(_zero_rows(partial.frozen))  # type: ignore[no-untyped-call]
            count = int((~partial.frozen).sum())
            note(f"{partial.name}: {count:,} of {len(partial.frozen):,} rows are trained")
    elif section.freeze_layers:
        name, blocks = find_blocks(base)
        beyond = [number for number in section.frozen_layers if number >= len(blocks)]
        if beyond:
            raise ModelError(
                f"`freeze_layers`: there is no block {beyond[0]}; `{name}` has {len(blocks)}",
                f"Write numbers from 0 to {len(blocks) - 1}.",
            )
        for number in section.frozen_layers:
            blocks[number].requires_grad_(False)


def find_partial(base: Any, section: FreezingSection) -> tuple[Partial, ...]:
    """The weights of which `unfrozen_parameters` lets some rows train."""
    rows = _find_trained(base, section.patterns)
    return tuple(
        Partial(name, weight, ~rows[id(weight)])
        for name, weight in base.named_parameters()
        if id(weight) in rows and not bool(rows[id(weight)].all())
    )


def find_blocks(base: Any) -> tuple[str, torch.nn.ModuleList]:
    """The list of a model's blocks, with its name.

    Raises:
        ModelError: The model has none of as many modules as its config says.
    """
    wanted = base.config.get_text_config().num_hidden_layers
    for name, blocks in list_blocks(base).items():
        if len(blocks) == wanted:
            return name, blocks
    raise ModelError(
        f"`freeze_layers`: {type(base).__name__} has no list of its {wanted} blocks",
        "Name what is trained in `unfrozen_parameters`.",
    )


def list_blocks(base: Any) -> dict[str, torch.nn.ModuleList]:
    """Every list of modules in a model, by name."""
    return {name: module for name, module in base.named_modules() if isinstance(module, torch.nn.ModuleList)}


def _freeze_all_but_(base: Any, trained: set[int]) -> None:
    for weight in base.parameters():
        weight.requires_grad_(id(weight) in trained)


def _find_trained(base: Any, patterns: Iterable[Pattern]) -> dict[int, torch.Tensor]:
    """Id of a weight -> which of its rows are trained, shape [R].  A tied weight goes by each of its names."""
    names = dict(base.named_parameters(remove_duplicate=False))
    trained: dict[int, torch.Tensor] = {}
    for pattern in patterns:
        matched = [name for name in names if re.match(pattern.name, name)]
        if not matched:
            raise _no_match(pattern, list(names))
        for name in matched:
            weight = names[name]
            num_rows = weight.shape[0] if weight.ndim else 1
            if pattern.has_rows and max(pattern.first + 1, pattern.end or 0) > num_rows:
                raise ModelError(
                    f"`unfrozen_parameters: {pattern.text}`: `{name}` has {num_rows:,} rows",
                    f"Write rows up to `[:{num_rows}]`.",
                )
            rows = trained.setdefault(id(weight), torch.zeros(num_rows, dtype=torch.bool))
            rows[pattern.first : pattern.end] = True
    return trained


def _no_match(pattern: Pattern, names: list[str]) -> ModelError:
    inside = [name for name in names if re.search(pattern.name, name)]
    if inside:
        fix = f"A pattern is for the beginning of a name, such as `{inside[0]}`."
    else:
        kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".0.", name) for name in names))
        more = f" and {len(kinds) - _SHOWN} more" if len(kinds) > _SHOWN else ""
        fix = f"{suggest(pattern.text, names)}There are: {', '.join(kinds[:_SHOWN])}{more}."
    return ModelError(f"`unfrozen_parameters: {pattern.text}` matches no weight of this model", fix)


def _zero_rows(frozen: torch.Tensor) -> Any:
    """A hook that zeroes the gradient of some rows."""

    def zero(gradient: torch.Tensor) -> torch.Tensor:
        mask = frozen.to(gradient.device).reshape(-1, *[1] * (gradient.ndim - 1))
        return gradient.masked_fill(mask, 0)

    return zero
