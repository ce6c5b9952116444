"""`attention`: PyTorch's attention, by the kernel that is fastest for the rows at hand."""

from __future__ import annotations

from siredon.model.attend import NAME, register_fast_attention
from siredon.model.blocks import Blocks
from siredon.model.kernel import Changes, Kernel, Outcome, Situation


def refuse(situation: Situation) -> str:
    """Why the table is not asked."""
    if situation.attention != "sdpa":
        return f"`attn_implementation: {situation.attention}` is asked for"
    if not situation.hardware.is_gpu:
        return "a CPU has one kernel for it"
    return ""


def install(blocks: Blocks, situation: Situation, changes: Changes) -> Outcome:
    """Has transformers call it, where attention of every layer is causal and sees the whole row."""
    base, outcome = blocks.base, Outcome()
    settings = base.config.get_text_config().to_dict()
    window = settings.get("sliding_window") if settings.get("use_sliding_window", True) else None
    types = set(settings.get("layer_types") or ())
    if window or settings.get("attention_chunk_size") or types - {"full_attention"}:
        outcome.leave_out("layers of this model see a window or a chunk of the row")
        return outcome
    if len(blocks.attentions) != base.config.get_text_config().num_hidden_layers:
        outcome.leave_out("attention of this model is of no kind that is known here")
        return outcome
    before = base.config._attn_implementation
    register_fast_attention()
    base.set_attn_implementation(NAME)
    changes.add(lambda: base.set_attn_implementation(before))
    outcome.num_places = len(blocks.attentions)
    outcome.what = f"{outcome.num_places} layers: cuDNN for whole rows, documents end to end for packed ones"
    return outcome


KERNEL = Kernel(
    title="Attention, by a table",
    gain="packed rows need no mask; whole rows are as fast where PyTorch takes cuDNN by itself",
    install=install,
    refuse=refuse,
)
