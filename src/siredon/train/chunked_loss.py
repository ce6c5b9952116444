"""The loss of a batch from hidden states, a chunk at a time, where a model's head allows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from siredon.config.schema import Config
from siredon.data.types import IGNORE
from siredon.hardware import Hardware
from siredon.log import note, warn
from siredon.model.head import Head, catch_hidden, find_head
from siredon.model.install import Row
from siredon.model.precision import Precision
from siredon.ops.divergence import Projection, measure_divergences
from siredon.ops.head_rows import choose_chunk_rows
from siredon.ops.linear_cross_entropy import LossOptions, linear_cross_entropy_rows
from siredon.ops.token_statistics import measure_tokens
from siredon.train.token_scores import NOTHING, Asked, Prediction, TokenScores

if TYPE_CHECKING:
    from siredon.train.trainer import SiredonTrainer

#: Tokens with which a head is tried out, and the first of their ids.
_NUM_TRIED, _FIRST_ID = 8, 3


@dataclass(frozen=True)
class ChunkedLoss:
    """Cross-entropy through the head's weights, in place of the head.

    Args:
        head: The head.
        num_chunks: Chunks of a batch; None for chunks of a size that is good for this head.
    """

    head: Head
    num_chunks: int | None = None

    def measure(
        self, run: Callable[[], Any], targets: Tensor, num_targets: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Summed loss of a batch, a scalar with its gradient, and the loss of each token, [B, T], without; fp32.

        Args:
            run: The forward pass of the model, over [B, T] tokens.
            targets: Ids that they predict, [B, T]; `IGNORE` is no target.
            num_targets: How many are targets, where it is known.
        """
        with catch_hidden(self.head.layer) as caught:
            run()
        (hidden,) = caught.hidden
        # Under autocast the head would do the same
        weight = self.head.weight.to(hidden.dtype)
        options = self._choose_options(targets, num_targets)
        total, losses = linear_cross_entropy_rows(
            hidden.flatten(0, 1), weight, targets.flatten(), options=options, bias=self.head.bias
        )
        return total, losses.view_as(targets)

    def log_probs(
        self,
        run: Callable[[], Any],
        targets: Tensor,
        num_targets: int | None = None,
        asked: Asked = NOTHING,
    ) -> TokenScores:
        """Log-probability of each target, [B, T], fp32, with its gradient; 0 where there is none.  As `measure`.

        If asked, also entropies, of the same pass; collisions, for which the head is gone through a second time; and
        divergences from the prediction of another pass, for which both heads are.
        """
        with catch_hidden(self.head.layer) as caught:
            run()
        (hidden,) = caught.hidden
        rows, weight = hidden.flatten(0, 1), self.head.weight.to(hidden.dtype)
        options = self._choose_options(targets, num_targets)
        found = measure_tokens(
            rows, weight, targets.flatten(), asked.measures, options=options, bias=self.head.bias
        )
        # What stands in for the weights later has other data: this keeps what they are now
        bias = None if self.head.bias is None else self.head.bias.detach()
        own, divergences = Projection(rows.detach(), weight.detach(), bias), None
        if asked.against is not None:
            assert asked.against.projection is not None
            divergences = measure_divergences(
                own, asked.against.projection, targets.flatten(), options=options
            ).view_as(targets)
        return TokenScores(
            found.log_probs.view_as(targets),
            None if found.collisions is None else found.collisions.view_as(targets),
            None if found.entropies is None else found.entropies.detach().view_as(targets),
            divergences,
            Prediction(own) if asked.prediction else None,
        )

    def _choose_options(self, targets: Tensor, num_targets: int | None) -> LossOptions:
        return LossOptions(
            softcap=self.head.softcap,
            scale=self.head.scale,
            chunk_rows=self.chunk_rows(targets.numel() if num_targets is None else num_targets),
            num_targets=num_targets,
        )

    def chunk_rows(self, num_rows: int) -> int | None:
        """Rows of a chunk of so many in all; None leaves it to the op."""
        return None if self.num_chunks is None else max(1, -(-num_rows // self.num_chunks))

    def describe(self, num_tokens: int) -> str:
        """For people, of a batch of so many tokens."""
        rows = self.chunk_rows(num_tokens)
        rows = rows or choose_chunk_rows(
            num_tokens, len(self.head.weight), self.head.dtype.itemsize, learns=self.head.weight.requires_grad
        )
        return f"chunked linear cross-entropy, {rows:,} rows at a time"


def asks_for_chunks(config: Config) -> bool | None:
    """Whether the file asks for a chunked loss, by any of its names; None if it leaves it open."""
    names = config.loss.cut_cross_entropy, config.liger.liger_fused_linear_cross_entropy
    if any(names) or config.preference.dpo_use_liger_kernel:
        return True
    return config.loss.chunked_cross_entropy


def choose_loss_(trainer: SiredonTrainer, base: Any, config: Config, hardware: Hardware) -> None:
    """Lets a trainer compute its loss in chunks where the file asks for it, and by itself on a GPU; says which it is.

    Args:
        trainer: Holds the model, on its device.
        base: The model of transformers inside it.
        config: What the file says.
        hardware: Where.
    """
    asked = asks_for_chunks(config)
    if asked is False or (asked is None and not hardware.is_gpu and not trainer.chunks_everywhere):
        return
    found = find_head_of(trainer, trainer.model, base)
    if isinstance(found, str):
        tell = warn if asked else note
        tell(f"loss: cross-entropy over logits, because {found}")
        return
    trainer.chunked = ChunkedLoss(found, config.loss.chunked_cross_entropy_num_chunks)
    num_tokens = config.batch.micro_batch_size * config.data.sequence_len
    note(f"loss: {trainer.chunked.describe(num_tokens)}")


def report_loss(model: Any, base: Any, config: Config, hardware: Hardware, precision: Precision) -> Row:
    """Whether a training would take it, for the table of kernels.

    Args:
        model: The module that is trained.
        base: The model of transformers inside it.
        config: What the file says.
        hardware: Where.
        precision: Number formats.
    """
    asked = asks_for_chunks(config)
    choice, reason = "", "ruled out by the config" if asked is False else "no GPU: logits are computed whole"
    if asked or (asked is None and hardware.is_gpu):
        ids = torch.arange(_FIRST_ID, _FIRST_ID + _NUM_TRIED, device=hardware.device)[None]

        def run() -> Tensor:
            with precision.autocasting(ids.device):
                logits: Tensor = model(input_ids=ids, use_cache=False).logits
            return logits

        found = find_head(base, run)
        reason = found if isinstance(found, str) else ""
        if isinstance(found, Head):
            loss = ChunkedLoss(found, config.loss.chunked_cross_entropy_num_chunks)
            choice = loss.describe(config.batch.micro_batch_size * config.data.sequence_len).partition(", ")[
                2
            ]
    title = "Head and cross-entropy at once"
    return Row(
        "linear_cross_entropy",
        title,
        choice,
        reason,
        "no logits: 9.8 GiB less at 8,192 tokens of 128,256 ids",
    )


def find_head_of(trainer: SiredonTrainer, model: Any, base: Any) -> Head | str:
    """The head of a model that a trainer runs, or why its logits are left to the model.

    Args:
        trainer: Runs it.
        model: The module that is called, on its device.
        base: The model of transformers inside it.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return "weights are sharded"
    if trainer.args.ddp_find_unused_parameters:
        return "weights that take no part in a step are looked for, which the head would seem to be"
    ids = torch.arange(_FIRST_ID, _FIRST_ID + _NUM_TRIED, device=trainer.args.device)[None]
    batch: Any = {
        "input_ids": ids,
        "labels": torch.full_like(ids, IGNORE),
        "position_ids": ids - _FIRST_ID,
        "num_tokens": torch.full_like(ids[0, :1], _NUM_TRIED),
    }

    def run() -> Tensor:
        with trainer.compute_loss_context_manager():
            return trainer.run_model(model, batch)

    was_training = model.training
    model.eval()
    try:
        return find_head(base, run)
    finally:
        model.train(was_training)
