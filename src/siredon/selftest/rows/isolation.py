"""Row 3: documents of a pack do not see each other.

Bugs of record: trl#1230; transformers#46634.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from siredon.data.types import Batch, Sample
from siredon.selftest.rig import Rig, one_step
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.tiny import build_samples
from siredon.selftest.trial import Bench
from siredon.selftest.truth import compare_tensors, exact_logits, read_exact_model

#: Documents of the pack that is looked at; the last one is the one that must not see the others.
_LENGTHS = ((17, 16), (9, 8), (21, 20))
#: Full attention everywhere; a window of 8 tokens, which reaches over the border of documents; both in turn.
_KINDS = ("llama", "mistral", "gemma3_text")


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """Packed; a forward pass has neither accumulation nor ranks."""
    return grid.cells(packings=(True,), accumulations=(1,), ranks=(1,))


def run(rig: Rig, cell: Cell) -> Finding:
    """Holds a document in a pack against itself alone, and beside other neighbours."""
    return find(measure for kind in _KINDS for measure in _measure(rig, cell, kind))


def _measure(rig: Rig, cell: Cell, kind: str) -> Iterator[tuple[str, float, float]]:
    documents = build_samples(_LENGTHS)
    others = [*_change(documents[:-1]), documents[-1]]
    exact = read_exact_model(rig.write_model(kind))
    with rig.open(one_step(cell, kind=kind)) as bench:
        model: Any = bench.trainer.model
        model.eval()
        batch = _collate(bench, documents)
        last = _place_last(documents)
        with torch.no_grad():
            before = _run(bench, batch)[last]
            alone = exact_logits(exact, documents[-1])
            yield f"{kind}: logits in a pack and alone", _distance(before, alone), FP32
            moved = (_run(bench, _collate(bench, others))[last] - before).abs().max()
            yield f"{kind}: logits moved by changed neighbours", float(moved), 0.0
            masked: Any = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
            moved = (_run(bench, masked)[last] - before).abs().max()
            yield f"{kind}: logits moved by a mask of ones in the batch", float(moved), 0.0
        reached = _follow(bench, model, batch, last)
        yield f"{kind}: gradient at neighbours", float(reached[: last.start].max()), 0.0
        yield f"{kind}: tokens of its own without gradient", float((reached[last] == 0).sum()), 0.0


def _change(documents: Sequence[Sample]) -> list[Sample]:
    """The same with every id another one."""
    return [
        Sample(np.where(sample.input_ids > 100, 50, 150).astype(np.int32), sample.labels)
        for sample in documents
    ]


def _collate(bench: Bench, documents: Sequence[Sample]) -> Batch:
    collator: Any = bench.trainer.data_collator
    batch: Batch = bench.trainer._prepare_inputs(collator([tuple(documents)]))
    return batch


def _place_last(documents: Sequence[Sample]) -> slice:
    end = sum(len(sample.input_ids) for sample in documents)
    return slice(end - len(documents[-1].input_ids), end)


def _run(bench: Bench, batch: Batch) -> torch.Tensor:
    """Logits of a batch of one sequence, shape [T, V]."""
    model: Any = bench.trainer.model
    with bench.trainer.compute_loss_context_manager():
        return bench.trainer.run_model(model, batch)[0]


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return compare_tensors({"": found.cpu()}, {"": wanted.detach()})


def _follow(bench: Bench, model: Any, batch: Batch, place: slice) -> torch.Tensor:
    """How much of the gradient of a document's logits reaches the embedding of each token, shape [T]."""
    found: list[torch.Tensor] = []

    def cut(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1]

    handle = model.get_input_embeddings().register_forward_hook(cut)
    try:
        total = _run(bench, batch)[place].square().sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(total, found[:1])
    return gradient[0].abs().sum(dim=-1)


ROW = Row(
    number=3,
    proves="Documents in a pack do not see each other, forward or backward, in full attention or a window.",
    cells=list_cells,
    run=run,
)
