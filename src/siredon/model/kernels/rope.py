"""`rope`: rotary positions of queries and keys at once."""

from __future__ import annotations

from siredon.model.blocks import Blocks
from siredon.model.kernel import Changes, Kernel, Outcome, Situation
from siredon.ops.rope import rope


def install(blocks: Blocks, situation: Situation, changes: Changes) -> Outcome:
    """Lays it over attention of known kinds."""
    outcome = Outcome(what="attention layers")
    for attention in blocks.attentions:
        attention.rotate = rope
        outcome.num_places += 1
    outcome.what = f"{outcome.num_places} layers"
    if not blocks.attentions:
        outcome.leave_out("attention of this model is of no kind that is known here")
    return outcome


KERNEL = Kernel(
    title="Rotary positions of queries and keys",
    gain="8 % of the speed of an 8B LoRA (H100)",
    install=install,
)
