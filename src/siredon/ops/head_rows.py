"""What ops over a head share: rows that go through it a chunk at a time, and gradients gathered from chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from siredon.hardware import GPU

#: A target that is none, as in `torch.nn.functional.cross_entropy`.
IGNORE = -100
#: A chunk of logits has about this many bytes, and between these many rows: products of fewer are slow.
_CHUNK_BYTES = 2**28
#: The same where the head is trained: each chunk reads and writes the sum of its gradients, in fp32, once more.
_CHUNK_BYTES_TRAINED = 2**30
_FEWEST_ROWS, _MOST_ROWS = 1024, 4096
#: Gradients of logits in fp16 are this many times as large: probabilities of rare tokens are below its numbers.
_FP16_UNIT = 1024.0


def choose_chunk_rows(num_rows: int, num_ids: int, num_bytes: int, *, learns: bool = False) -> int:
    """Rows whose logits exist at once: about 256 MiB of them, 1,024 to 4,096 rows, in chunks of nearly one size.

    Args:
        num_rows: Rows in all.
        num_ids: Logits of a row.
        num_bytes: Of one logit.
        learns: The head's weights are trained: four times as many bytes, in as few rows at the least.
    """
    room = _CHUNK_BYTES_TRAINED if learns else _CHUNK_BYTES
    most = min(max(room // (num_ids * num_bytes), _FEWEST_ROWS), _MOST_ROWS) // 128 * 128
    num_chunks = max(1, -(-num_rows // most))
    return max(1, -(-num_rows // (num_chunks * 128)) * 128)


def match_formats(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first three in one format: under autocast that of autocast, else that of the hidden states.

    Raises:
        ValueError: Hidden states and weights are in different formats, or there is not one target for each row.
    """
    if hidden.shape[:1] != targets.shape:
        raise ValueError(f"hidden states of shape {[*hidden.shape]} have targets of shape {[*targets.shape]}")
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        wanted = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(wanted), weight.to(wanted)
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden states are {hidden.dtype}, and the head's weights {weight.dtype}")
    return hidden, weight, None if bias is None else bias.to(hidden.dtype)


def split_rows(targets: Tensor, num_targets: int, chunk_rows: int) -> Iterator[slice | Tensor]:
    """The rows with a target, a chunk at a time: slices where all have one, else indices.

    Args:
        targets: Ids, [N].
        num_targets: How many are targets; -1 counts them.
        chunk_rows: Rows of a chunk.
    """
    if num_targets < 0:
        num_targets = int((targets != IGNORE).sum())
    if num_targets == len(targets):
        yield from (slice(start, start + chunk_rows) for start in range(0, num_targets, chunk_rows))
    else:
        # The order is that of the rows, and the number is known: nothing waits for a GPU, as `nonzero` would
        order = (targets == IGNORE).to(torch.uint8).argsort(stable=True)
        for start in range(0, num_targets, chunk_rows):
            yield order[start : min(start + chunk_rows, num_targets)]


def empty_logits(hidden: Tensor, weight: Tensor, num_rows: int) -> Tensor:
    """Room for a chunk of logits, [rows, V], whose rows begin where products are fast."""
    width = -(-len(weight) // 16) * 16
    return hidden.new_empty(num_rows, width)[:, : len(weight)]


def multiply_(logits: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits of some rows [n, H], written into the first n of the room."""
    out = logits[: len(rows)]
    if bias is None:
        return torch.mm(rows, weight.T, out=out)
    return torch.addmm(bias, rows, weight.T, out=out)


@cache
def _adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of few bits can be added to fp32 here: not with every version, nor on every maker's GPUs."""
    small = torch.zeros(16, 16, dtype=dtype, device=device)
    total = torch.zeros(16, 16, dtype=torch.float32, device=device)
    try:
        torch.addmm(total, small, small, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return True


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `left.T @ right` to a sum in fp32, also where both are in fewer bits."""
    if left.dtype == torch.float32:
        total.addmm_(left.T, right)
    elif left.device.type == GPU and _adds_wide(left.device, left.dtype):
        torch.addmm(total, left.T, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.T.float(), right.float())


@dataclass
class Gradients:
    """What a chunk's gradients are gathered in; None where a tensor has none.

    Args:
        hidden: Shape [N, H], its format.
        weight: Shape [V, H], fp32.
        bias: Shape [V], fp32.
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, wants: tuple[bool, bool, bool]) -> Gradients:
        """All of them zero."""
        return cls(
            torch.zeros_like(hidden) if wants[0] else None,
            torch.zeros_like(weight, dtype=torch.float32) if wants[1] else None,
            weight.new_zeros(len(weight), dtype=torch.float32) if wants[2] else None,
        )

    def add_(self, place: slice | Tensor, logits: Tensor, rows: Tensor, weight: Tensor) -> None:
        """Adds those of a chunk: gradients of its logits [n, V], its hidden states [n, H], the head."""
        if self.hidden is not None:
            if isinstance(place, slice):
                torch.mm(logits, weight, out=self.hidden[place])
            else:
                self.hidden.index_copy_(0, place, logits @ weight)
        if self.weight is not None:
            add_product_(self.weight, logits, rows)
        if self.bias is not None:
            self.bias += logits.sum(0, dtype=torch.float32)

    def as_outputs(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three, as an op returns them: empty where there is none."""
        found = (self.hidden, self.weight, self.bias)
        first, second, third = (like.new_empty(0) if value is None else value for value in found)
        return first, second, third


def unit_of(hidden: Tensor) -> float:
    """By what gradients of logits are multiplied, to be divided by it again behind the products."""
    return _FP16_UNIT if hidden.dtype == torch.float16 else 1.0
