"""Whether this model keeps documents in one sequence apart, tried out before the run that relies on it.

Some architectures read no positions when they build their mask, or carry a state from token to token, and
some attention reads borders off a single row only: documents would see each other, with a loss that looks normal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from siredon.data.collate import Collator
from siredon.data.types import Batch, Sample
from siredon.errors import ModelError
from siredon.model.quantized import mixes_tokens
from siredon.train.trainer import SiredonTrainer

#: Three documents a pack; each pack of a batch has them in another order.
_LENGTHS = (7, 9, 6)
_LOWEST_ID, _NUM_IDS = 10, 50
_MIDDLE = 1
#: How far logits may move where experts group tokens by content, so that a changed neighbour reorders a sum.
_EXPERT_ROUNDING = 1e-2
#: How much a document may differ in a pack and alone: 16-bit formats round differently at other lengths.
_ROUNDING = 0.1


def check_isolation(trainer: SiredonTrainer, attention: str, model: Any = None) -> None:
    """Puts documents together as the run will, and looks whether any of them reaches another.

    Args:
        trainer: Holds the model, on its device, and the collator.
        attention: Value of `attn_implementation`, for the message.
        model: Another model to try, which is not trained; default that of the trainer.

    Raises:
        ModelError: One does.
    """
    learns, model = model is None, trainer.model if model is None else model
    assert model is not None
    for size in sorted({trainer.args.train_batch_size, trainer.args.eval_batch_size}):
        leak = find_leak(trainer, size, gradients=learns, model=model)
        if leak is None:
            continue
        if type(trainer.data_collator) is Collator and trainer.data_collator.marks_samples:
            raise ModelError(
                f"both answers of a pair lie in one sequence, and a model of type {model.config.model_type} "
                f"with `attn_implementation: {attention}` lets them see each other: {leak}",
                "Try another `attn_implementation`, or weights that are not rounded in 8 bits.",
            )
        if mixes_tokens(model):
            raise ModelError(
                "packing: with bitsandbytes' 8-bit products documents in one sequence change each other, as an outlier "
                f"in one keeps a column of all from being rounded: {leak}",
                "Set `sample_packing: false` and `eval_sample_packing: false`. Training from 16-bit weights can pack "
                "with `bnb_config_kwargs: {llm_int8_threshold: 0}`, which rounds outliers too, or with "
                "`load_in_torchao: int8`.",
            )
        fix = "Set `sample_packing: false` and `eval_sample_packing: false` (and no `batch_flattening`), or try "
        if (
            size > 1
            and not _flattens(trainer)
            and find_leak(trainer, 1, gradients=learns, model=model) is None
        ):
            fix += "`multipack_real_batches: false`: a single pack passes, a batch of them does not."
        else:
            fix += "another `attn_implementation`."
        raise ModelError(
            f"packing: a model of type {model.config.model_type} with `attn_implementation: {attention}` lets "
            f"documents in one sequence see each other: {leak}",
            fix,
        )


def find_leak(
    trainer: SiredonTrainer, num_packs: int, *, gradients: bool = True, model: Any = None
) -> str | None:
    """How a document in a batch of packs reaches another, in words; None if it does not.

    1. Every token of the middle documents is changed: no other logit may move, not by a bit.  (Experts that group
       tokens by content may round differently.)
    2. The gradient of the middle documents is exactly zero at the embeddings of all others.
    3. A document has the logits in a pack that it has alone, but for rounding.

    Args:
        trainer: Holds the model and the collator.
        num_packs: Packs per batch.
        gradients: Whether to look at gradients too.
        model: Another model to try; default that of the trainer.
    """
    model = trainer.model if model is None else model
    probe = _Probe(trainer, num_packs, model)
    was_training = model.training
    model.eval()
    try:
        with trainer.compute_loss_context_manager():
            with torch.no_grad():
                leak = _compare_changed(probe) or _compare_alone(probe)
            if leak is None and gradients:
                leak = _follow_gradients(probe)
    finally:
        model.train(was_training)
    return leak


@dataclass(frozen=True)
class _Probe:
    trainer: SiredonTrainer
    num_packs: int
    model: Any

    def collate(self, packs: list[tuple[Sample, ...]]) -> Batch:
        """A batch as the run makes it, but no longer than it need be."""
        collator: Any = self.trainer.data_collator
        if isinstance(collator, Collator):
            collator = replace(collator, pad_to=None)
        return cast("Batch", self.trainer._prepare_inputs(collator(packs)))

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits, in fp32."""
        return self.trainer.run_model(self.model, batch).float()

    def build(self, *, changed: bool = False) -> Batch:
        """Packs of three documents; labels say which of the three a token is of."""
        return self.collate([_build_pack(number, changed=changed) for number in range(self.num_packs)])

    @property
    def has_experts(self) -> bool:
        settings = self.model.config.get_text_config().to_dict()
        # `num_experts`, `num_local_experts`, `n_routed_experts`: each architecture has its own name.
        return any(name.endswith("experts") and value not in (None, 0, 1) for name, value in settings.items())


def _build_pack(number: int, *, changed: bool) -> tuple[Sample, ...]:
    documents = []
    for role in range(len(_LENGTHS)):
        length = _LENGTHS[(role + number) % len(_LENGTHS)]
        ids = 11 * number + 17 * role + 3 * np.arange(length)
        if changed and role == _MIDDLE:
            ids = ids + 1 + np.arange(length) % 5
        ids = (_LOWEST_ID + ids % _NUM_IDS).astype(np.int32)
        documents.append(Sample(ids, np.full(length, role, dtype=np.int32)))
    return tuple(documents)


def _compare_changed(probe: _Probe) -> str | None:
    batch = probe.build()
    before, after = probe.run(batch), probe.run(probe.build(changed=True))
    others = (batch["labels"] >= 0) & (batch["labels"] != _MIDDLE)
    moved = (before - after)[others].abs().max().item()
    allowed = _EXPERT_ROUNDING * before[others].abs().max().item() if probe.has_experts else 0.0
    if moved <= allowed:
        return None
    return f"changed tokens of one moved its neighbours' logits by {moved:.2g}"


def _compare_alone(probe: _Probe) -> str | None:
    """The median over tokens, as an expert chosen by a hair's breadth may change for one of them."""
    last = len(_LENGTHS) - 1
    batch = probe.build()
    packed = probe.run(batch)[:1][batch["labels"][:1] == last][: _LENGTHS[last]]
    alone = probe.run(probe.collate([_build_pack(0, changed=False)[last:]]))[0, : _LENGTHS[last]]
    error = ((packed - alone).norm(dim=-1) / alone.norm(dim=-1)).median().item()
    if error <= _ROUNDING:
        return None
    return f"the logits of one differ by {100 * error:.2g} % from those that it has alone"


def _follow_gradients(probe: _Probe) -> str | None:
    batch = probe.build()
    middle = batch["labels"] == _MIDDLE
    with torch.enable_grad(), _embeddings_as_leaves(probe.model) as leaves:
        total = probe.run(batch)[middle].square().sum()
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    reached = max(
        (gradient[~middle].abs().max().item() for gradient in found if gradient is not None), default=0.0
    )
    return None if reached == 0 else f"the gradient of one reaches its neighbours' embeddings ({reached:.2g})"


@contextmanager
def _embeddings_as_leaves(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what the input embeddings give, cut off from their weights: the weights need not be trained."""
    leaves: list[torch.Tensor] = []

    def cut(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_()
        leaves.append(leaf)
        return leaf

    handle = model.get_input_embeddings().register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _flattens(trainer: SiredonTrainer) -> bool:
    collator: Any = trainer.data_collator
    return isinstance(collator, Collator) and collator.flatten
