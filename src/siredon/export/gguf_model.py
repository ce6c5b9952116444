"""A model of transformers in the words of llama.cpp: its keys, the names and the layout of its tensors.

Source: the tensor names and keys of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siredon.errors import ModelError
from siredon.export.source import read_weights
from siredon.log import warn

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """How llama.cpp reads the models of one `model_type`.

    Args:
        architecture: What it calls them.
        interleaves: Whether it turns neighbouring elements of a head, where transformers turns one of the first half
            with one of the second: the rows of queries and keys are then put in that order.
    """

    architecture: str
    interleaves: bool = False


#: `model_type` -> family.  Each is read back by transformers, and has been by llama.cpp.
FAMILIES = {
    "llama": Family("llama", interleaves=True),
    "mistral": Family("llama", interleaves=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
}


def find_family(config: Any, folder: Path) -> Family:
    """The family of a config of transformers.

    Raises:
        ModelError: One that is not written here.
    """
    family = FAMILIES.get(config.model_type)
    if family is None or config.hidden_act != "silu":
        what = config.model_type if family is None else f"{config.model_type} with `{config.hidden_act}`"
        raise ModelError(
            f"--format gguf: {what} is not one of the families that are written and proven here: "
            f"{', '.join(FAMILIES)}",
            f"llama.cpp's own tool takes the folder: `python convert_hf_to_gguf.py {folder} --outfile model.gguf`.",
        )
    return family


def read_head_size(config: Any) -> int:
    """Elements of a head."""
    stated = config.to_dict().get("head_dim")
    return int(stated or config.hidden_size // config.num_attention_heads)


def add_config(writer: Any, config: Any, family: Family) -> None:
    """Writes what the config of a model says."""
    size = read_head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_vocab_size(config.vocab_size)
    if family.interleaves:
        writer.add_rope_dimension_count(size)
    _add_rope(writer, config)
    _warn_of_window(config)


def _add_rope(writer: Any, config: Any) -> None:
    import gguf

    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind not in ("default", "llama3"):
        raise ModelError(
            f"--format gguf: positions scaled by `rope_type: {kind}` are not written: what transformers reads back "
            "has none of it, so it could not be checked",
            "llama.cpp's own tool, convert_hf_to_gguf.py, writes it.",
        )


def _warn_of_window(config: Any) -> None:
    kept = config.to_dict()
    window = kept.get("sliding_window") if kept.get("use_sliding_window", True) else None
    if window and window < config.max_position_embeddings:
        warn(
            f"llama.cpp reads this family without its sliding window of {window:,} tokens: longer texts are answered "
            "otherwise than by transformers"
        )


def compute_rope_factors(config: Any) -> torch.Tensor | None:
    """What llama.cpp divides each frequency by, fp32 `(head size / 2,)`; None where it is 1.

    Equals `theta ** (-2 i / size) / f_i`, with transformers' own scaled frequencies f of `rope_type: llama3`.
    """
    if config.rope_parameters.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = read_head_size(config)
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    plain = config.rope_parameters["rope_theta"] ** -exponents
    factors: torch.Tensor = (plain / scaled.double()).float()
    return factors


def read_tensors(folder: Path, config: Any, family: Family) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under its name in the file and in llama.cpp's layout, one after another.

    Raises:
        ModelError: A tensor that the family has no name for.
    """
    factors = compute_rope_factors(config)
    if factors is not None:
        yield ROPE_FACTORS, factors
    for name, other, weight in pair_tensors(folder, config, family):
        yield name, arrange(other, weight, config, family)


def pair_tensors(folder: Path, config: Any, family: Family) -> Iterator[tuple[str, str, torch.Tensor]]:
    """For every tensor of a folder: its name in the file, its name in transformers, and its values as they are."""
    names = _name_map(config, family)
    for other, weight in read_weights(folder):
        if other.endswith("rotary_emb.inv_freq") or (
            config.tie_word_embeddings and other == "lm_head.weight"
        ):
            continue
        name = names.get_name(other, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"--format gguf: {other} in {folder} has no place in llama.cpp's {family.architecture}",
                "Such a model can be exported as safetensors.",
            )
        yield name, other, weight


def _name_map(config: Any, family: Family) -> Any:
    import gguf

    architecture = next(key for key, word in gguf.MODEL_ARCH_NAMES.items() if word == family.architecture)
    return gguf.get_tensor_name_map(architecture, config.num_hidden_layers)


def arrange(other: str, weight: torch.Tensor, config: Any, family: Family) -> torch.Tensor:
    """A tensor of transformers in llama.cpp's layout.

    Where that interleaves, row i of the first half of a head comes before row i of its second half.
    """
    heads = None
    if family.interleaves and ".q_proj." in other:
        heads = config.num_attention_heads
    elif family.interleaves and ".k_proj." in other:
        heads = config.num_key_value_heads
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def choose_type(name: str, shape: tuple[int, ...], word: str) -> Any:
    """The format that a tensor is written in, a `gguf.GGMLQuantizationType`.

    Vectors stay in fp32; a row that is no multiple of a block is in f16.  Below 8 bits the embeddings and the head,
    whose errors reach every token, are in q8_0.
    """
    import gguf

    kinds = gguf.GGMLQuantizationType
    wanted = kinds[word.upper()]
    if len(shape) == 1:
        return kinds.F32
    if wanted.name[:2] in ("Q4", "Q5") and name in ("token_embd.weight", "output.weight"):
        wanted = kinds.Q8_0
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else kinds.F16


def round_to(name: str, weight: torch.Tensor, kind: Any) -> np.ndarray:
    """The bytes of a tensor in a format.

    Raises:
        ModelError: A value that the format cannot hold.
    """
    import gguf

    largest = weight.abs().max().item() if weight.numel() else 0.0
    if not math.isfinite(largest):
        raise ModelError(f"{name} holds values that are no finite numbers", "Take an earlier checkpoint.")
    if kind == gguf.GGMLQuantizationType.F16 and largest > float(np.finfo(np.float16).max):
        raise ModelError(f"{name} holds {largest:.0f}, which f16 cannot hold", "Use `--type bf16`.")
    packed: np.ndarray = gguf.quants.quantize(weight.float().contiguous().numpy(), kind)
    return packed
