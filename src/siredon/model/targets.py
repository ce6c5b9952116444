"""Which layers and tensors of a model an adapter is put on: the names of the YAML against those of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection, is_pattern
from siredon.errors import ModelError
from siredon.model.score_head import find_score_head, has_score_head
from siredon.registry import suggest

#: How many names a message shows.
_SHOWN = 20


@dataclass(frozen=True)
class Targets:
    """What is adapted.

    Args:
        modules: Full names of the layers.
        parameters: Full names of the bare tensors.
        short: The layers as PEFT takes them: as they stand in the YAML where that says the same, else full names.
        short_parameters: The same for the tensors.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    short: str | tuple[str, ...]
    short_parameters: tuple[str, ...]


def find_targets(model: Any, section: AdapterSection) -> Targets:
    """The layers and tensors that the config names.

    Args:
        model: A model of transformers, without an adapter.
        section: Names, patterns, numbers of blocks, and what is left out.

    Raises:
        ModelError: A name, pattern or number that matches nothing.
    """
    linear = linear_layers(model)
    everything = [name for name, _ in model.named_modules() if name]
    chosen = set(linear) if section.targets_linear else set()
    for pattern in section.named_targets:
        chosen |= _match("lora_target_modules", pattern, everything, linear)
    for pattern in section.lora_modules_to_save:
        _match("lora_modules_to_save", pattern, everything, everything)
    _check_tied(model, section.named_targets)
    saved = [re.compile(rf"(.*\.)?{name}($|\..*)") for name in section.lora_modules_to_save]
    chosen = {name for name in chosen if not any(pattern.match(name) for pattern in saved)}
    for pattern in section.lora_exclude_modules:
        chosen -= _match("lora_exclude_modules", pattern, sorted(chosen), sorted(chosen))
    tensors = [name for name, weight in model.named_parameters() if weight.ndim in (2, 3)]
    parameters: set[str] = set()
    for name in section.lora_target_parameters or ():
        parameters |= _match("lora_target_parameters", name, tensors, _bare_tensors(model))
    chosen, parameters = _keep_blocks(model, section, chosen), _keep_blocks(model, section, parameters)
    if not chosen and not parameters:
        raise ModelError(
            "No layer is left for the adapter",
            "Look at `lora_exclude_modules`, `lora_modules_to_save` and `peft_layers_to_transform`.",
        )
    _check_overlap(chosen, parameters)
    modules = tuple(name for name in everything if name in chosen)
    names = tuple(section.lora_target_parameters or ())
    if section.peft_layers_to_transform is not None or any(map(is_pattern, names)):
        names = tuple(sorted(parameters))
    short = modules if has_score_head(model) else _shorten(section, modules)
    return Targets(modules, tuple(sorted(parameters)), short, names)


def linear_layers(model: Any) -> list[str]:
    """Names of the layers that multiply by a matrix (also those of few bits), but for the head."""
    from transformers.pytorch_utils import Conv1D

    head = find_score_head(model) if has_score_head(model) else model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    ]


def tied_names(model: Any, names: Iterable[str]) -> list[str]:
    """Those of `names` that mean embeddings or head, while the two are one tensor."""
    if not model.config.get_text_config().tie_word_embeddings:
        return []
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    return [name for name in names if any(matches(name, full) for full in tied)]


def matches(pattern: str, name: str) -> bool:
    """Whether a name of the YAML means the layer `name`: it is its name, or the end of it after a dot.

    A regular expression matches the whole of either.
    """
    if is_pattern(pattern):
        return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) is not None
    return name == pattern or name.endswith(f".{pattern}")


def check_patterns(key: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuses a pattern of `lora_rank_pattern` or `lora_alpha_pattern` that fits no adapted layer.

    Args:
        key: The key, for the message.
        patterns: Regular expressions; the whole name of a layer, or its end after a dot, matches.
        names: Full names of all that is adapted.

    Raises:
        ModelError: A pattern that fits none.
    """
    for pattern in patterns:
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            there = _ends(names)
            raise ModelError(
                f"`{key}: {pattern}` fits no layer that is adapted",
                f"{suggest(pattern, there)}Adapted: {_list(there)}.",
            )


def _match(key: str, pattern: str, names: Iterable[str], offered: Iterable[str]) -> set[str]:
    found = {name for name in names if matches(pattern, name)}
    if not found:
        there = _ends(offered)
        what = "tensor" if key == "lora_target_parameters" else "layer"
        raise ModelError(
            f"`{key}: {pattern}` matches no {what} of this model",
            f"{suggest(pattern, there)}Its {what}s: {_list(there)}.",
        )
    return found


def _keep_blocks(model: Any, section: AdapterSection, names: set[str]) -> set[str]:
    """Those in the blocks that are asked for.  (PEFT would pass over the numbers where it has full names.)"""
    wanted = section.peft_layers_to_transform
    if wanted is None or not names:
        return names
    lists = sorted({name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)})
    for pattern in section.peft_layers_pattern or ():
        _match("peft_layers_pattern", pattern, lists, lists)
    numbers = {name: _block_number(name, section.peft_layers_pattern or ()) for name in names}
    there = sorted({number for number in numbers.values() if number is not None})
    for number in wanted:
        if number not in there:
            raise ModelError(
                f"`peft_layers_to_transform`: no layer that is adapted is in block {number}",
                f"Blocks with one: {', '.join(map(str, there)) or 'none'}.",
            )
    return {name for name, number in numbers.items() if number in wanted}


def _block_number(name: str, patterns: Sequence[str]) -> int | None:
    """Which block of its list a layer is in: the first number of its name, as a further one counts experts."""
    for pattern in patterns or (r"[^.]*",):
        found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name)
        if found:
            return int(found.group(1))
    return None


def _shorten(section: AdapterSection, modules: tuple[str, ...]) -> str | tuple[str, ...]:
    if section.lora_exclude_modules or section.peft_layers_to_transform is not None:
        return modules
    if section.targets_linear:
        return modules if section.named_targets else "all-linear"
    return modules if any(map(is_pattern, section.named_targets)) else section.named_targets


def _bare_tensors(model: Any) -> list[str]:
    """Names of the matrices that are not the weight of a layer that LoRA knows."""
    known = (torch.nn.Linear, torch.nn.Embedding)
    return [
        f"{name}.{own}"
        for name, module in model.named_modules()
        if not isinstance(module, known)
        for own, weight in module.named_parameters(recurse=False)
        if weight.ndim in (2, 3)
    ]


def _check_overlap(modules: set[str], parameters: set[str]) -> None:
    for name in sorted(parameters):
        if name.rpartition(".")[0] in modules:
            raise ModelError(
                f"`lora_target_parameters` names {name}, of a layer that has an adapter already",
                "Leave it out of one of `lora_target_modules` and `lora_target_parameters`.",
            )


def _check_tied(model: Any, names: tuple[str, ...]) -> None:
    tied = tied_names(model, names)
    if tied:
        raise ModelError(
            f"`lora_target_modules: {tied[0]}`: this model's embeddings and head are one tensor, "
            "and LoRA on one of them could not be merged",
            f"Train it in full: `lora_modules_to_save: [{tied[0]}]`.",
        )


def _ends(names: Iterable[str]) -> list[str]:
    """What names end with; for a tensor with the name of its module."""
    return sorted({name.rpartition(".")[2] for name in names if name})


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
