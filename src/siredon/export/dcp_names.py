"""The names in a checkpoint of a training, as names of the model: what wraps its layers is taken off."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from siredon.errors import CheckpointError
from siredon.export.dcp_index import Stored

#: What FSDP, `torch.compile` and the recomputing of activations put before the name of a layer.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")
#: What DDP puts before all names.
_LEADING = "module."
#: What dictionaries with the weights of a model are called, if several hold some.
_USUAL = ("model", "state_dict", "module")
_SHOWN = 3


@dataclass(frozen=True)
class Names:
    """The state of one model in a checkpoint.

    Args:
        place: Name in the model -> name in the checkpoint.
        cleaned: What was taken off, and off how many names.
        others: How many tensors of the checkpoint belong to something else, such as the optimizer.
    """

    place: Mapping[str, str]
    cleaned: Mapping[str, int]
    others: int


def read_names(tensors: Mapping[str, Stored], wanted: Collection[str], what: str) -> Names:
    """Finds the weights of a model among all that a checkpoint holds.

    They may lie in dictionaries (`model`, `app.model`).  That with most of the names wanted is taken, as a whole.

    Args:
        tensors: What the checkpoint holds.
        wanted: Names of the model.
        what: The checkpoint and the model, for messages.

    Raises:
        CheckpointError: None of the names is there; two names become one; two dictionaries are as good.
    """
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for key, stored in tensors.items():
        groups.setdefault(stored.path[:-1], {})[key] = stored.path[-1]
    counts = {}
    for container, names in groups.items():
        counts[container] = len({_clean(name, wanted)[0] for name in names.values()}.intersection(wanted))
    most = max(counts.values(), default=0)
    if not most:
        raise CheckpointError(
            f"{what}: no name is that of a weight; there are {show_names(sorted(tensors)) or 'no tensors'}",
            "Name the model that was trained by `--base-model`, and the folder with its weights, not that of the "
            "optimizer.",
        )
    best = [container for container, count in counts.items() if count == most]
    usual = [container for container in best if not container or container[-1] in _USUAL]
    if len(best) > 1 and len(usual) != 1:
        places = " and ".join(f"`{'.'.join(container)}`" for container in best)
        raise CheckpointError(
            f"{what}: {places} both hold the weights of such a model", "Save one of them by itself."
        )
    chosen = (usual if len(best) > 1 else best)[0]
    place: dict[str, str] = {}
    cleaned: dict[str, int] = {}
    for key, name in groups[chosen].items():
        clean, taken_off = _clean(name, wanted)
        if clean in place:
            raise CheckpointError(
                f"{what}: `{place[clean]}` and `{key}` are both {clean}",
                "Take another checkpoint of the run.",
            )
        place[clean] = key
        for part in taken_off:
            cleaned[part] = cleaned.get(part, 0) + 1
    return Names(place, cleaned, len(tensors) - len(place))


def show_names(names: Collection[str]) -> str:
    """The first few."""
    more = len(names) - _SHOWN
    return ", ".join(list(names)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _clean(name: str, wanted: Collection[str]) -> tuple[str, list[str]]:
    """A name without what wraps its layers, and what that was."""
    clean = _WRAPPERS.sub("", name)
    found = [f"{part}." for part in dict.fromkeys(_WRAPPERS.findall(name))]
    if clean not in wanted and clean.startswith(_LEADING):
        clean = clean.removeprefix(_LEADING)
        found.append(_LEADING)
    return clean, found
