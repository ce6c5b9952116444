"""Fused kernels laid over a model: on its instances alone, with an undo, each tried against what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siredon.config.sections.kernels import WORDS
from siredon.model.blocks import AttentionBlock, Blocks, MlpBlock, read_blocks
from siredon.model.kernel import Changes, Kernel, Outcome, Situation
from siredon.registry import Shelf

KERNELS = Shelf("siredon.model.kernels", "KERNEL", "kernels")

#: Those that are pieces of blocks, and in place only with the block.
_IN_BLOCKS = ("rope", "glu", "lora_linear")

#: Largest difference from what is replaced, against its length: a few roundings of the format.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

#: Tokens that a kernel is tried on.
_TRIED = (2, 24)


@dataclass(frozen=True)
class Row:
    """One kernel and what became of it on a model.

    Args:
        name: Its word in `kernels:`.
        title: What it computes.
        choice: Where it is used; empty for nowhere.
        reason: Why not, or not everywhere.
        gain: What was measured of it.
    """

    name: str
    title: str
    choice: str
    reason: str
    gain: str


@dataclass(frozen=True)
class Installed:
    """Kernels on a model.

    Args:
        rows: What became of each.
        changes: How they are taken off again.
    """

    rows: tuple[Row, ...]
    changes: Changes

    def describe(self) -> str:
        """For people: those in use."""
        return ", ".join(row.name for row in self.rows if row.choice)


def install_kernels_(base: Any, wanted: Mapping[str, bool | None], situation: Situation) -> Installed:
    """Lays kernels over a model.

    Args:
        base: The model of transformers, adapters inside it.
        wanted: Kernel -> asked for, ruled out, or left to the machine: then a GPU has it and a CPU does not.
        situation: What they are chosen by.

    Returns:
        What became of each, and the undo.
    """
    changes, blocks = Changes(), read_blocks(base)
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    for name in WORDS:
        kernel: Kernel = KERNELS.load(name)
        reason = _rule_out(kernel, wanted.get(name), situation)
        reasons[name] = reason
        outcomes[name] = Outcome() if reason else kernel.install(blocks, situation, changes)
    if differing := _attach(blocks, changes):
        for word in _IN_BLOCKS:
            if outcomes[word].num_places:
                outcomes[word].reasons |= differing
    rows = [_report(name, KERNELS.load(name), outcomes[name], reasons[name]) for name in WORDS]
    return Installed(tuple(rows), changes)


def _rule_out(kernel: Kernel, asked: bool | None, situation: Situation) -> str:
    if asked is False:
        return "ruled out by the config"
    if asked is None and not situation.hardware.is_gpu:
        return "no GPU: PyTorch's own is used"
    if asked is None and situation.compiles and kernel.gives_way:
        return "layers are compiled"
    return kernel.refuse(situation)


def _report(name: str, kernel: Kernel, outcome: Outcome, reason: str) -> Row:
    reasons = "; ".join(
        text if count == 1 else f"{text} ({count} times)" for text, count in outcome.reasons.items()
    )
    choice = outcome.what if outcome.num_places else ""
    return Row(name, kernel.title, choice, reason or reasons, kernel.gain)


def _attach(blocks: Blocks, changes: Changes) -> dict[str, int]:
    """Has attention and feed-forward layers computed by their blocks, where a kernel has a piece of them.

    Returns:
        Why some are computed as before: reason -> how many modules.
    """
    left = Outcome()
    changed: tuple[AttentionBlock | MlpBlock, ...] = (*blocks.attentions, *blocks.mlps)
    for block in changed:
        if not block.is_changed:
            continue
        tried = _try_attention(block) if isinstance(block, AttentionBlock) else _try_mlp(block)
        if tried:
            left.leave_out(f"{type(block.module).__name__} {tried}")
        else:
            changes.set_forward(block.module, block.forward)
    return left.reasons


def _try_mlp(block: MlpBlock) -> str:
    weight = find_weight(block.module.gate_proj)
    return same_output(block.module, block.forward, weight.in_features)


def _try_attention(block: AttentionBlock) -> str:
    """Compares a layer's attention with that of its block, over two rows."""
    module = block.module
    tokens = draw_tokens(module, find_weight(module.q_proj).in_features)
    if tokens is None:
        return ""
    positions = torch.arange(_TRIED[1], device=tokens.device).expand(_TRIED[0], -1)
    angles = positions[..., None] / 7 ** torch.linspace(0, 1, module.head_dim // 2, device=tokens.device)
    angles = torch.cat([angles, angles], dim=-1)
    rotation = (angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype))
    options: dict[str, Any] = {
        "position_embeddings": rotation,
        "attention_mask": None,
        "position_ids": positions,
    }
    with torch.no_grad(), without_dropout(module):
        found, expected = block.forward(tokens, **options)[0], module(tokens, **options)[0]
    return differs(found, expected, rounds_inputs(module))


def same_output(module: torch.nn.Module, forward: Callable[[Tensor], Tensor], width: int) -> str:
    """Tries what replaces a module on a few tokens, [2, 24, width].

    Returns:
        Why it may not; empty if it gives the same.
    """
    tokens = draw_tokens(module, width)
    if tokens is None:
        return ""
    with torch.no_grad(), without_dropout(module):
        found, expected = forward(tokens), module(tokens)
    return differs(found, expected, rounds_inputs(module))


def rounds_inputs(module: torch.nn.Module) -> bool:
    """Whether it has products in 8 bits: what differs by a rounding before one may be a step of 8 bits after it."""
    return any(weight.dtype is torch.int8 for weight in module.parameters())


@contextmanager
def without_dropout(module: torch.nn.Module) -> Iterator[None]:
    """In it, a module is computed without dropout: two passes would drop different places.

    Other layers stay as they are: some of bitsandbytes change their weights where a model answers.
    """
    trained = [part for part in module.modules() if isinstance(part, torch.nn.Dropout) and part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True


def draw_tokens(module: torch.nn.Module, width: int) -> Tensor | None:
    """Inputs to try a module on, [2, 24, width], in the format of its weights; None where it has no weights yet."""
    weights = dict(module.named_parameters())
    if any(weight.is_meta for weight in weights.values()):
        return None
    # Adapters are often in fp32 beside a base in 16 bits; weights in few bits are widened to bf16
    base = [weight.dtype for name, weight in weights.items() if "lora_" not in name]
    dtype = next((kind for kind in base if kind.is_floating_point), torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    device = next(iter(weights.values())).device
    return torch.randn((*_TRIED, width), generator=generator).to(device, dtype)


def find_weight(linear: Any) -> Any:
    """The linear layer inside an adapter of PEFT, or the layer itself."""
    return linear.base_layer if "base_layer" in linear._modules else linear


def differs(found: Tensor, expected: Tensor, rounds: bool = False) -> str:
    """How two results of one computation differ; empty if only by roundings, to 8 bits where it `rounds`."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"gives {found.dtype} of shape {tuple(found.shape)} instead of {expected.dtype}"
    error = float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))
    allowed = _TOLERANCE.get(expected.dtype, 0.0)
    if error <= (max(allowed, _TOLERANCE[torch.bfloat16]) if rounds else allowed):
        return ""
    return "gives other numbers than the module that it replaces"
