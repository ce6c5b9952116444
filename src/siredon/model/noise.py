"""NEFTune: noise on the embeddings of what is trained on; and a model without dropout.

Source: Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023,
https://arxiv.org/abs/2310.05914.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def leave_dropout_out_(model: torch.nn.Module) -> None:
    """Puts what does nothing in the place of each layer of dropout."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Dropout):
                module.register_module(name, torch.nn.Identity())


class EmbeddingNoise:
    """Adds `alpha / sqrt(L * d)` times uniform noise between -1 and 1 to the embeddings of a document.

    `L` is the document's own length in tokens, whatever it shares its row with, and `d` the width of the
    embeddings.  Padding gets none.  There is noise inside `during` only: not in validation, not in generation.

    Args:
        alpha: Amount of noise.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: torch.Tensor | None = None

    def attach_(self, embeddings: torch.nn.Module) -> Any:
        """Lets the module's output have noise; returns the handle, whose `remove` undoes it."""
        return embeddings.register_forward_hook(self._add)

    @contextmanager
    def during(self, position_ids: torch.Tensor, num_tokens: torch.Tensor) -> Iterator[None]:
        """Forward passes inside are on this batch, and have noise.

        Args:
            position_ids: Shape [B, T]; a document begins where they are 0.
            num_tokens: Tokens of each pack, padding left out: shape [B], or [P] if all packs lie in one row.
        """
        self._lengths = count_document_tokens(position_ids, num_tokens)
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        lengths = self._lengths
        if lengths is None:
            return None
        assert lengths.shape == output.shape[:2], "noise is for the batch that `during` was told of"
        scale = self.alpha / (lengths.clamp(min=1) * output.shape[-1]).sqrt() * (lengths > 0)
        noise = torch.empty_like(output, dtype=torch.float32).uniform_(-1, 1)
        return output + (noise * scale.unsqueeze(-1)).to(output.dtype)


def count_document_tokens(position_ids: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
    """The length of the document that each token is of, shape [B, T] in fp32; 0 for padding."""
    num_rows, width = position_ids.shape
    in_row = num_tokens if len(num_tokens) == num_rows else num_tokens.sum().reshape(1)
    is_real = torch.arange(width, device=position_ids.device) < in_row.to(position_ids.device).unsqueeze(1)
    # A row may begin in the middle of a document: that part is a document too.
    document = (position_ids == 0).cumsum(1)
    counts = torch.zeros(num_rows, width + 1, device=position_ids.device)
    counts.scatter_add_(1, document, is_real.float())
    return counts.gather(1, document) * is_real
