"""The head of a model apart from its body: hidden states are taken where they go into it.

What a model does to the logits behind its head is written in its code only.  It is looked for in the settings that
models have for it, and then tried out: some tokens go through the model, and their logits must be those that the
head's weights give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor
from torch.distributed.tensor import DTensor

from siredon.model.placement import is_spread

#: Settings by which a model bends its logits: `cap * tanh(logits / cap)`.
_CAPS = ("final_logit_softcapping", "logits_soft_cap")
#: Settings by which a model multiplies its logits, and those by which it divides them (Granite); either may be
#: the other in a model, which the trial shows.
_FACTORS = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)
#: How far logits may be apart, as a share of the largest one, some roundings of a format; 1e-4 in others.
_ROUNDING = {torch.bfloat16: 2**-5, torch.float16: 2**-8}


@dataclass(frozen=True)
class Head:
    """A linear layer behind the body of a model, and what its logits go through.

    Args:
        layer: The layer.
        dtype: Format in which it multiplies.
        softcap: Logits x become `softcap * tanh(x / softcap)`; 0 for none.
        scale: They are multiplied by it, after the cap.
    """

    layer: torch.nn.Linear
    dtype: torch.dtype
    softcap: float = 0.0
    scale: float = 1.0

    @property
    def weight(self) -> Tensor:
        """Shape [V, H]."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """Shape [V]."""
        return self.layer.bias


@dataclass
class Caught:
    """What has come to a head, in the format in which the head would have multiplied it."""

    hidden: list[Tensor] = field(default_factory=list)


@contextmanager
def catch_hidden(layer: torch.nn.Linear, *, computes: bool = False) -> Iterator[Caught]:
    """Keeps what goes into a head; what comes out is one number for each token, unless logits are wanted.

    The instance is changed, and is as it was afterwards.

    Args:
        layer: The head.
        computes: It gives logits, as ever.
    """
    caught = Caught()
    plain = layer.forward

    def forward(hidden: Tensor) -> Tensor:
        kind = hidden.device.type
        cast = hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden
        caught.hidden.append(cast)
        return plain(hidden) if computes else hidden[..., :1]

    layer.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield caught
    finally:
        del layer.forward


def find_head(base: Any, run: Callable[[], Tensor]) -> Head | str:
    """The head of a model, or why its logits are left to the model.

    Args:
        base: The model of transformers.
        run: Logits of some tokens, [.., V]; called once.
    """
    layer = base.get_output_embeddings()
    if isinstance(layer, ModulesToSaveWrapper) and len(layer.active_adapters) == 1:
        layer = layer.modules_to_save[layer.active_adapters[0]]
    reason = _find_obstacle(layer, base)
    if reason is not None:
        return reason
    with torch.no_grad(), catch_hidden(layer, computes=True) as caught:
        logits = run()
    if len(caught.hidden) != 1:
        return f"the model runs its head {len(caught.hidden)} times in a pass"
    (hidden,) = caught.hidden
    for softcap, scale in _read_settings(base.config.get_text_config().to_dict()):
        head = Head(layer, hidden.dtype, softcap, scale)
        if _gives(head, hidden, logits):
            return head
    return "the model does something to its logits that is not known here"


def _find_obstacle(layer: Any, base: Any) -> str | None:
    """Why a head is not a plain linear layer on one device."""
    if layer is None:
        return "the model has no head"
    # What is derived from it computes something else: adapters, weights in few bits
    if type(layer) is not torch.nn.Linear:
        return f"the head is a {type(layer).__name__}, not a linear layer"
    if is_spread(base):
        return "the model is spread over several devices"
    if isinstance(layer.weight, DTensor) or layer.weight.is_meta:
        return "the head's weights are not whole on this device"
    if "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return "something else has changed what the head computes"
    return None


def _read_settings(settings: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Caps and scales that the settings may mean, the likeliest first."""
    caps = [float(settings[name]) for name in _CAPS if settings.get(name)]
    factors = [float(settings[name]) for name in _FACTORS if settings.get(name)]
    divisors = [float(settings[name]) for name in _DIVISORS if settings.get(name)]
    scales = [*factors, *(1 / value for value in divisors), *divisors, 1.0]
    for cap in [*caps, 0.0]:
        yield from ((cap, scale) for scale in scales)


def _gives(head: Head, hidden: Tensor, logits: Tensor) -> bool:
    """Whether logits are those of a head, but for rounding."""
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.to(hidden.dtype)
        values = torch.nn.functional.linear(hidden, head.weight.to(hidden.dtype), bias).float()
    if head.softcap:
        values = torch.tanh(values / head.softcap) * head.softcap
    values = values * head.scale
    if values.shape != logits.shape:
        return False
    error = (values - logits.float()).abs().max()
    return bool(error <= _ROUNDING.get(hidden.dtype, 1e-4) * logits.float().abs().max())
