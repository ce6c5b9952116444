"""What a decoder layer is made of, in pieces that kernels can take the place of.

A block computes what the module of transformers computes, piece by piece: projections, rotation, attention; gate, up
and down; norms and sums.  Each piece is the module's own until a kernel replaces it.  Blocks are laid over modules of
known kinds only, and tried against them (`model/install.py`).

Shapes: B rows, T tokens a row, C width of the model, H heads, G heads of keys and values, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from siredon.ops.recomputing import is_recomputing

#: Modules of attention that project, normalize by head if they have norms, rotate, attend and project.
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention", "GemmaAttention")

#: Of them, those that hand the window of their attention on.
_WINDOWED = ("MistralAttention", "Qwen2Attention", "Qwen3Attention")

#: Layers that add what attention gives, and then what the feed-forward layer gives, each of what a norm has made.
LAYERS = (
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
    "GemmaDecoderLayer",
)


@dataclass
class AttentionBlock:
    """Attention of one layer.

    Args:
        module: The module of transformers.
        project: [B, T, C] -> queries [B, T, H * D], keys and values [B, T, G * D].
        rotate: Queries [B, H, T, D], keys [B, G, T, D], cosines and sines -> both, rotated.
        finish: [B, T, H * D] -> [B, T, C].
    """

    module: Any
    project: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    rotate: Callable[..., tuple[Tensor, Tensor]] | None = None
    finish: Callable[[Tensor], Tensor] | None = None

    @property
    def is_changed(self) -> bool:
        """Whether a kernel has taken the place of a piece."""
        return any(piece is not None for piece in (self.project, self.rotate, self.finish))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The same as the module's own: its output, [B, T, C], and its weights, if they are kept."""
        module = self.module
        shape = hidden_states.shape[:-1]
        query, key, value = (part.view(*shape, -1, module.head_dim) for part in self._project(hidden_states))
        if "q_norm" in module._modules:
            query, key = module.q_norm(query), module.k_norm(key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        query, key = self._rotate(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, module.layer_idx)
        if type(module).__name__ in _WINDOWED:
            options["sliding_window"] = read_window(module)
        attend = find_attention(module)
        result, weights = attend(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=module.attention_dropout if module.training else 0.0,
            scaling=module.scaling,
            **options,
        )
        joined = result.reshape(*shape, -1)
        return (module.o_proj(joined) if self.finish is None else self.finish(joined)), weights

    def _project(self, hidden: Tensor) -> tuple[Tensor, ...]:
        if self.project is not None:
            return self.project(hidden)
        module = self.module
        return module.q_proj(hidden), module.k_proj(hidden), module.v_proj(hidden)

    def _rotate(self, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        if self.rotate is not None:
            return self.rotate(query, key, cosine, sine)
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        rotated: tuple[Tensor, Tensor] = apply_rotary_pos_emb(query, key, cosine, sine)
        return rotated


@dataclass
class MlpBlock:
    """A gated feed-forward layer: `down(activation(gate(x)) * up(x))`.

    Args:
        module: The module of transformers.
        activation: What `ops.glu` calls the activation.
        spread: [..., C] -> gate and up, both [..., F].
        glu: Gate, up and the name of the activation -> their product.
        run: All of it at once, [..., C] -> [..., C].
    """

    module: Any
    activation: str
    spread: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    glu: Callable[[Tensor, Tensor, str], Tensor] | None = None
    finish: Callable[..., Tensor] | None = None
    run: Callable[..., Tensor] | None = None
    #: The layer adds its output to something and does nothing else with it: made again, it need not be computed.
    is_last: bool = field(default=False)

    @property
    def is_changed(self) -> bool:
        """Whether a kernel has taken the place of a piece."""
        return any(piece is not None for piece in (self.spread, self.glu, self.finish, self.run))

    def forward(self, hidden: Tensor) -> Tensor:
        """The same as the module's own."""
        module = self.module
        skips = {"skip_output": True} if self.is_last and is_recomputing() else {}
        if self.run is not None:
            return self.run(hidden, **skips)
        gate, up = (
            (module.gate_proj(hidden), module.up_proj(hidden)) if self.spread is None else self.spread(hidden)
        )
        product = module.act_fn(gate) * up if self.glu is None else self.glu(gate, up, self.activation)
        result: Tensor = module.down_proj(product) if self.finish is None else self.finish(product, **skips)
        return result


@dataclass
class LayerBlock:
    """A layer: attention and a feed-forward layer, each normalized before and added after.

    Args:
        module: The module of transformers.
        add_norm: Output and what it is added to, and the norm's module -> the normalized sum, and the sum.
    """

    module: Any
    add_norm: Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]] | None = None

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """The same as the module's own."""
        module = self.module
        assert self.add_norm is not None
        attended, _ = module.self_attn(hidden_states=module.input_layernorm(hidden_states), **options)
        normed, summed = self.add_norm(attended, hidden_states, module.post_attention_layernorm)
        result: Tensor = summed + module.mlp(normed)
        return result


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model.

    Args:
        base: The model of transformers.
        layers: Its layers of known kinds.
        attentions: Its attention of known kinds.
        mlps: Its gated feed-forward layers.
        norms: Its norms by root mean square.
    """

    base: Any
    layers: tuple[LayerBlock, ...]
    attentions: tuple[AttentionBlock, ...]
    mlps: tuple[MlpBlock, ...]
    norms: tuple[Any, ...]


def read_blocks(base: torch.nn.Module) -> Blocks:
    """Finds what kernels can take the place of."""
    layers, attentions, mlps, norms = [], [], [], []
    for module in base.modules():
        name = type(module).__name__
        if name in LAYERS:
            layers.append(LayerBlock(module))
        elif name in ATTENTIONS:
            attentions.append(AttentionBlock(module))
        elif name.endswith("RMSNorm") and read_epsilon(module) is not None:
            norms.append(module)
        elif activation := _read_activation(module):
            mlps.append(MlpBlock(module, activation))
    last = {id(layer.module.mlp) for layer in layers}
    for mlp in mlps:
        mlp.is_last = id(mlp.module) in last
    return Blocks(base, tuple(layers), tuple(attentions), tuple(mlps), tuple(norms))


def _read_activation(module: torch.nn.Module) -> str | None:
    """The activation of a gated layer; None for any other module."""
    parts = module._modules
    if set(parts) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    kind = type(parts["act_fn"]).__name__
    return {
        "SiLU": "silu",
        "SiLUActivation": "silu",
        "GELUActivation": "gelu",
        "PytorchGELUTanh": "gelu_tanh",
        "GELUTanh": "gelu_tanh",
    }.get(kind)


def read_epsilon(norm: Any) -> float | None:
    """The epsilon of a norm by root mean square, as models of transformers call it; None for another norm."""
    settings = vars(norm)
    found = settings.get("variance_epsilon", settings.get("eps"))
    return float(found) if found is not None and set(norm._parameters) == {"weight"} else None


def read_window(module: Any) -> int | None:
    """Tokens that attention of a layer sees, its own included; None for all."""
    found: int | None = vars(module).get("sliding_window", None)
    if found is None and type(module).__name__ == "MistralAttention":
        found = module.config.to_dict().get("sliding_window")
    return found


def find_attention(module: Any) -> Callable[..., Any]:
    """What computes the attention of a module, by the name in its config."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config._attn_implementation, eager_attention_forward
    )
    return found
