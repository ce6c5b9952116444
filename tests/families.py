"""Tiny models with random weights, one per family of transformers: what holds of all is tried on each.

`FAMILIES` maps a name to a builder of its config, fit for `pytest.mark.parametrize`; the session fixture
`family_folder` (in `conftest.py`) gives the folder of such a model, with the tokenizer of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What every family has; each adds its own.
_COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.08,
}
_QWEN3_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}
_FALCON_H1 = {
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_chunk_size": 32,
}


def _family(class_name: str, **own: Any) -> Callable[[], Any]:
    """A builder, so that naming the families loads no library."""

    def build() -> Any:
        import transformers

        return getattr(transformers, class_name)(**{**_COMMON, **own})

    return build


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _family("LlamaConfig", tie_word_embeddings=True),
    "mistral": _family("MistralConfig", sliding_window=None, head_dim=16),
    "mixtral": _family("MixtralConfig", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen2": _family("Qwen2Config", tie_word_embeddings=True),
    "qwen3": _family("Qwen3Config", head_dim=16),
    "qwen3_moe": _family("Qwen3MoeConfig", head_dim=16, **_QWEN3_MOE),
    "gemma2": _family("Gemma2Config", **_GEMMA),
    "gemma3": _family(
        "Gemma3TextConfig",
        **_GEMMA,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
    "phi3": _family("Phi3Config", sliding_window=None),
    "gpt_oss": _family(
        "GptOssConfig",
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    ),
    "falcon_h1": _family("FalconH1Config", **_FALCON_H1),
    "olmo2": _family("Olmo2Config"),
    "granite": _family("GraniteConfig"),
    "smollm3": _family("SmolLM3Config", no_rope_layers=[1, 0], tie_word_embeddings=True),
}
#: Those with experts.
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
#: Those that carry a state from token to token.
RECURRENT = ("falcon_h1",)


def build_family(name: str, *, seed: int = 0) -> Any:
    """A model of the family, in fp32: two layers, hidden size 64, 512 tokens, under 1 MB."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(FAMILIES[name](), dtype=torch.float32)


def write_family(name: str, folder: Path, tokenizer: Any) -> Path:
    """Writes model and tokenizer to `folder` as `save_pretrained` does, and returns it."""
    build_family(name).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
