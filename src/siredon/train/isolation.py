"""Whether this model keeps packed documents apart, tried out before the run that relies on it.

Some architectures read no positions when they build their mask, or carry a state from token to token:
packing would let documents see each other, with a loss that looks normal.
"""

from __future__ import annotations

import torch

from siredon.errors import ModelError
from siredon.train.trainer import SiredonTrainer

_FIRST, _SECOND = 7, 9


def check_isolation(trainer: SiredonTrainer, attention: str) -> None:
    """Changes one token of a document and looks at its neighbour, which must not move.

    Args:
        trainer: Holds the model, on its device.
        attention: Value of `attn_implementation`, for the message.

    Raises:
        ModelError: The neighbour's logits changed.
    """
    model = trainer.model
    assert model is not None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            before, after = (_neighbour_logits(model, change) for change in (0, 1))
    finally:
        model.train(was_training)
    moved = (before - after).abs().max().item()
    # Experts group tokens by content, so a changed neighbour may change the order of a sum.
    if moved > 1e-2 * before.abs().max().item():
        name = model.config.model_type
        raise ModelError(
            f"packing: a model of type {name} with `attn_implementation: {attention}` lets documents in one sequence "
            f"see each other: a changed token of one moved its neighbour's logits by {moved:.2g}",
            "Set `sample_packing: false` and `eval_sample_packing: false`, or try another `attn_implementation`.",
        )


def _neighbour_logits(model: torch.nn.Module, change: int) -> torch.Tensor:
    device = next(model.parameters()).device
    ids = torch.arange(10, 10 + _FIRST + _SECOND, device=device)[None]
    ids[0, _FIRST - 2] += 20 * change
    positions = torch.cat([torch.arange(_FIRST), torch.arange(_SECOND)])[None].to(device)
    output = model(input_ids=ids, position_ids=positions, use_cache=False)
    logits: torch.Tensor = output.logits[0, _FIRST:].float()
    return logits
