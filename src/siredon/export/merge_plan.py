"""What a merge that reads tensor by tensor does with each of them: copied as it is, or read, changed, and written.

A model's tensors have one set of names on disk and one in memory; for some families transformers also stacks or splits
them as it reads, as with the experts of Mixtral.  What has to be in memory together is a *unit*: the tensors that are
stacked into one, a layer with an adapter, and weights that are shared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from siredon.export.merge_stage import Stage
from siredon.export.tensor_files import Shards
from siredon.model.embeddings import list_tables


@dataclass
class Unit:
    """Tensors that are merged together.

    Args:
        keys: Their names on disk.
        names: Their names in the model, without those of the same tensor.
        slots: Layers with an adapter, and names of tensors that have none.
        is_converted: They are stacked or split as they are read.
        is_changed: Anything is done with them.
    """

    keys: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    slots: set[str] = field(default_factory=set)
    is_converted: bool = False
    is_changed: bool = False


@dataclass(frozen=True)
class Layout:
    """Names on disk and names in the model.

    Args:
        targets: Name on disk -> names in the model of what is made of it.
        converted: Names on disk of what is stacked or split.
        shared: Name in the model -> the name under which the same tensor is on disk.
    """

    targets: Mapping[str, tuple[str, ...]]
    converted: frozenset[str]
    shared: Mapping[str, str]


def read_layout(model: Any, shards: Shards) -> tuple[Layout | None, str]:
    """How the tensors on disk become those of the model.

    Args:
        model: The model without its weights, as `load_skeleton` gives it.
        shards: The files.

    Returns:
        The layout; or None, and why what is written would not have the names of what was read.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    state = model.state_dict()
    conversions = model._weight_conversions or []
    renamings = [step for step in conversions if isinstance(step, WeightRenaming)]
    converters = [step for step in conversions if isinstance(step, WeightConverter)]
    by_pattern = {pattern: step for step in converters for pattern in step.source_patterns}
    targets: dict[str, tuple[str, ...]] = {}
    converted = set()
    for key in shards:
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
        if name not in state:
            continue  # `load_model` has said that the model does not use it
        patterns = by_pattern[pattern].target_patterns if pattern is not None else [""]
        targets[key] = tuple(name.replace(patterns[0], other) for other in patterns) if pattern else (name,)
        if pattern is not None:
            converted.add(key)
    on_disk = {name for names in targets.values() for name in names}
    shared = find_shared(model, on_disk)
    layout = Layout(targets, frozenset(converted), shared)
    return (layout, "") if not (reason := _compare(model, layout, on_disk)) else (None, reason)


def find_shared(model: Any, on_disk: Collection[str] = ()) -> dict[str, str]:
    """Names of a tensor that has several -> the one that is on disk, or the first one."""
    names_of: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(weight), []).append(name)
    shared = {}
    for names in names_of.values():
        there = [name for name in names if name in on_disk] or names[:1]
        shared.update({name: there[0] for name in names if len(names) > 1})
    return shared


def _compare(model: Any, layout: Layout, on_disk: set[str]) -> str:
    """Why the model would not be written as it was read; empty if it would."""
    twice = [name for name in on_disk if layout.shared.get(name, name) != name]
    if twice:
        return f"the files hold {twice[0]} twice"
    state = {name: weight for name, weight in model.state_dict().items() if _first(layout, name)}
    written = revert(model, state)
    odd = sorted(set(written) ^ set(layout.targets))
    return f"{odd[0]} has another name in memory, and would not get it back" if odd else ""


def _first(layout: Layout, name: str) -> bool:
    return layout.shared.get(name, name) == name


def revert(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Name in the model -> tensor, as name on disk -> tensor: what transformers does when it saves."""
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, Any] = revert_weight_conversion(model, dict(tensors))
    return reverted


def plan_units(
    model: Any, layout: Layout, stages: Iterable[Stage], more: Iterable[str], alone: Iterable[str]
) -> list[Unit]:
    """The units, in the order of the files.

    Args:
        model: The model without its weights.
        layout: Names on disk and in the model.
        stages: The adapters.
        more: Names of further tensors that are changed, all at once.
        alone: Names of tensors that are changed each by itself.
    """
    stages, together = list(stages), set(more)
    changed = together | set(alone)
    owner = _Owners()
    for key, names in layout.targets.items():
        for name in names:
            owner.join(f"disk {key}", _slot(name, stages))
    for name, first in layout.shared.items():
        owner.join(_slot(name, stages), _slot(first, stages))
    for name in together:
        owner.join(_slot(name, stages), _slot(min(together), stages))
    units: dict[str, Unit] = {}
    for key, names in layout.targets.items():
        unit = units.setdefault(owner.find(f"disk {key}"), Unit())
        unit.keys.append(key)
        unit.names.extend(name for name in names if name not in unit.names)
        unit.is_converted |= key in layout.converted
    slots = {_slot(name, stages) for name in [*model.state_dict()]}
    for slot in slots:
        if owner.find(slot) in units:
            units[owner.find(slot)].slots.add(slot)
    for unit in units.values():
        known = [*unit.names, *(name for name in layout.shared if _slot(name, stages) in unit.slots)]
        unit.is_changed = bool(changed & set(known)) or any(
            stage.changes(slot) for stage in stages for slot in unit.slots
        )
    return list(units.values())


def name_tables(model: Any) -> list[str]:
    """The names of what has a row per token."""
    return [name for name, _ in list_tables(model)]


def _slot(name: str, stages: list[Stage]) -> str:
    """The widest layer with an adapter that a tensor is in; else its own name."""
    found = [path for stage in stages if (path := stage.find_layer(name))]
    return min(found, key=len) if found else name


class _Owners:
    """Which things belong together: a forest in which each points to another one of its group, or to itself."""

    def __init__(self) -> None:
        self._next: dict[str, str] = {}

    def find(self, item: str) -> str:
        """The one that stands for its group."""
        self._next.setdefault(item, item)
        while self._next[item] != item:
            self._next[item] = self._next[self._next[item]]
            item = self._next[item]
        return item

    def join(self, first: str, second: str) -> None:
        """Makes one group of two."""
        self._next[self.find(second)] = self.find(first)
