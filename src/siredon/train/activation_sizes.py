"""What a batch takes, layer by layer, with any number of layers recomputed: counted on the model, with few tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from siredon.data.types import IGNORE, Batch
from siredon.model.recompute import count_kept_attention, find_layers, recompute_first_
from siredon.model.saved_bytes import Saved, count_saved
from siredon.train.probe import Prober

#: Tokens of the rows with which is counted what a layer keeps, at most.
_MOST_TOKENS = 128
#: Pieces as large as a layer's largest that its backward pass holds at once, besides what was kept: gradients of the
#: two factors of the feed-forward product, and that of the product.
_PIECES_AT_WORK = 3


@dataclass(frozen=True)
class LayerSizes:
    """What layers keep of the longest batch, in bytes; one value for each layer, in the order in which they run.

    Args:
        whole: Kept by a layer that is not recomputed.
        inputs: Kept by one that is.
        work: Held in its backward pass besides.
        gradients: Of its weights.
    """

    whole: tuple[int, ...]
    inputs: tuple[int, ...]
    work: tuple[int, ...]
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What a forward and backward pass takes, in bytes.

    Args:
        layers: The layers.
        outside: Kept by what is in no layer, but for the head.
        head: Kept by the head and the loss; as much again is held while their gradients are computed.
        gradients: Of weights that are in no layer.
        attention: What a recomputed layer keeps if its attention is not computed again; 0 where that cannot be.
    """

    layers: LayerSizes
    outside: int
    head: int
    gradients: int
    attention: int = 0

    @property
    def num_layers(self) -> int:
        """How many there are."""
        return len(self.layers.whole)

    def predict(self, count: int) -> int:
        """The peak of activations and gradients, if the first `count` layers are recomputed.

        Goes through the backward pass: what a layer has kept is let go behind it, while gradients of weights come to
        be.  A layer that is recomputed holds what it would have kept while its turn lasts.
        """
        sizes = self.layers
        kept = list(sizes.inputs[:count]) + list(sizes.whole[count:])
        held = sum(kept) + self.outside
        peak = held + 2 * self.head
        held += self.gradients
        for index in reversed(range(self.num_layers)):
            again = sizes.whole[index] if index < count else 0
            peak = max(peak, held + again + sizes.work[index])
            held += sizes.gradients[index] - kept[index]
        return max(peak, held)


def count_sizes(prober: Prober, base: Any, batch: Batch) -> Sizes:
    """What a batch takes, from short rows: each size is a polynomial of the row's length, through two or three of them.

    Eager attention keeps the square of the length; nearly everything else grows as the length does.

    Args:
        prober: Runs the model.
        base: The model of transformers inside the trainer's; all its layers can be recomputed.
        batch: The longest.
    """
    layers = find_layers(base)
    rows, width = batch["input_ids"].shape
    widths = choose_widths(width)

    def count(length: int, *, recomputed: bool, targets: bool = True) -> Saved:
        recompute_first_(base, len(layers) if recomputed else 0)
        part = shorten(batch, length, targets=targets)
        return count_saved(prober.trainer.model, layers, lambda: prober.run_forward(part))

    with prober.unchanged():
        whole = [count(length, recomputed=False) for length in widths]
        bare = [count(length, recomputed=False, targets=False) for length in widths]
        again = [count(length, recomputed=True) for length in widths]
        attention = [
            count_kept_attention(base, partial(prober.run_forward, shorten(batch, length, targets=False)))
            for length in widths
        ]

    def extend(values: Sequence[int]) -> int:
        return extrapolate_rows(widths, values, rows, width)

    def extend_each(name: Callable[[Saved], tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(extend(values) for values in zip(*map(name, whole), strict=True))

    outside = extend([found.outside for found in bare])
    head = max(0, extend([found.outside for found in whole]) - outside)
    # Evenly over those that ran: transformers keeps the input of a layer within it or before, by version
    inputs = extend([part.total - found.outside for part, found in zip(again, whole, strict=True)])
    kept = extend_each(lambda found: found.layers)
    share = inputs // max(1, sum(map(bool, kept)))
    largest = extend_each(lambda found: found.largest)
    sizes = LayerSizes(
        kept,
        tuple(share * bool(size) for size in kept),
        tuple(_PIECES_AT_WORK * size for size in largest),
        tuple(_count_gradients(layer) for layer in layers),
    )
    rest = prober.count_gradients() - sum(sizes.gradients)
    if prober.accumulates:  # They are all there before the first layer is computed
        sizes = LayerSizes(sizes.whole, sizes.inputs, sizes.work, (0,) * len(layers))
    return Sizes(
        sizes,
        outside,
        int(head * _share_of_targets(batch)),
        0 if prober.accumulates else max(0, rest),
        extend(attention) // max(1, sum(map(bool, kept))),
    )


def choose_widths(width: int) -> tuple[int, ...]:
    """Lengths of the rows that are counted with: three, or as many as there are."""
    most = min(width, _MOST_TOKENS)
    return tuple(sorted({length for length in (most // 4, most // 2, most) if length > 1} or {most}))


def shorten(batch: Batch, length: int, *, targets: bool) -> Batch:
    """One row of `length` tokens; with restarts of positions if the batch has some, as they take a mask.

    Args:
        batch: Whose tokens are taken.
        length: Of the row.
        targets: Every token is one, or none is.
    """
    ids = batch["input_ids"][:1, :length]
    positions = torch.arange(length, device=ids.device)[None]
    if (batch["position_ids"][:, 1:] == 0).any():
        positions = positions % max(1, (length + 1) // 2)
    found = Batch(
        input_ids=ids,
        labels=ids.clone() if targets else torch.full_like(ids, IGNORE),
        position_ids=positions,
        num_tokens=torch.tensor([length]),
    )
    if "sources" in batch:
        found["sources"] = batch["sources"][:1, :length]
    if "samples" in batch:  # A row of two, as a pair is
        found["samples"] = (torch.arange(length, device=ids.device) >= (length + 1) // 2).long()[None]
        found["packs"] = batch["packs"].new_zeros(2)
    if "reference" in batch:
        found["reference"] = batch["reference"][:2]
    return found


def extrapolate_rows(widths: Sequence[int], values: Sequence[int], rows: int, width: int) -> int:
    """What `rows` rows of `width` tokens take: on the polynomial through what one shorter row takes.

    Its constant is counted once, as it belongs to the weights: their copies in the format of the arithmetic.

    Args:
        widths: Lengths, in rising order: up to three.
        values: What a row of each length takes, in bytes.
        rows: How many there are.
        width: Their length.
    """
    if len(widths) == 1:
        return rows * values[0] * width // widths[0]
    (first, second), (low, high) = widths[:2], values[:2]
    slope = (high - low) / (second - first)
    curve = 0.0
    if len(widths) > 2:
        curve = ((values[2] - high) / (widths[2] - second) - slope) / (widths[2] - first)
        curve = max(curve, 0.0)
    slope -= curve * (first + second)
    constant = max(0.0, low - slope * first - curve * first**2)
    return int(constant + rows * (max(slope, 0.0) * width + curve * width**2))


def _share_of_targets(batch: Batch) -> float:
    """The part of the batch's positions for which there are logits."""
    predicts = (batch["labels"][:, 1:] != IGNORE).any(dim=0)
    return max(1, int(predicts.sum())) / batch["labels"].shape[1]


def _count_gradients(layer: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in layer.parameters() if weight.requires_grad)
