"""`merge_base`: the weights into which an adapter is merged, and the tokenizer beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.config.sections.quantization import QuantizationSection
from siredon.data.prompt import set_prompting_
from siredon.hardware import Hardware
from siredon.log import note
from siredon.model.experts import find_packed
from siredon.model.load import Source, load_model
from siredon.model.precision import resolve_precision
from siredon.model.quantized import find_rounded, widen_
from siredon.model.tokenizer import load_tokenizer


def load_merge_base(config: Config, tokenizer: Any, hardware: Hardware) -> Any:
    """The base model in fp32, so that the sum is made in fp32.

    An adapter that was trained beside rounded weights has learned to make up for their rounding.  So by default it
    is merged into those weights, widened; nothing is rounded to few bits again.  How far they are from the unrounded
    ones is said: the relative error in the Frobenius norm, over all rounded layers.

    Raises:
        ModelError: The model cannot be loaded, or its weights cannot be widened.
    """
    seed = config.batch.seed
    source = Source.of(config)
    whole = replace(source, quantization=QuantizationSection())
    quantization = config.quantization
    if not quantization.ways:
        return widen_(load_model(source, torch.float32, tokenizer, hardware, seed=seed))
    if quantization.merge_base == "original":
        note("merging into the unrounded base; the adapter was trained beside rounded weights")
        return widen_(load_model(whole, torch.float32, tokenizer, hardware, seed=seed))
    dtype = resolve_precision(config.precision, hardware, has_adapter=True).weights
    base = load_model(source, dtype, tokenizer, hardware, seed=seed)
    names = [f"{name}.weight" for name, _ in find_rounded(base)]
    names += [f"{path}.{name}" for path, name, _ in find_packed(base)]
    base = widen_(base)
    if quantization.model_quantization_config is None and names:
        error = measure_rounding(base, load_model(whole, dtype, tokenizer, hardware, seed=seed), names)
        note(
            f"merging into the rounded weights of training, widened: {100 * error:.2f} % from the unrounded ones"
        )
    return base


def load_merge_tokenizer(config: Config) -> Any:
    """The tokenizer as training saves it: with the chat template by which the model was trained.

    Raises:
        ModelError: It cannot be loaded.
        DataError: The template cannot be found or read.
    """
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    set_prompting_(tokenizer, config)
    return tokenizer


@torch.no_grad()
def measure_rounding(rounded: Any, whole: Any, names: list[str]) -> float:
    """Frobenius norm of the difference of two models, over that of `whole`, in fp64.

    Args:
        rounded: A model.
        whole: One with the same weights.
        names: The weights that are compared.
    """
    off, size = 0.0, 0.0
    for name in names:
        weight = whole.get_parameter(name).double()
        off += float((rounded.get_parameter(name).double() - weight).square().sum())
        size += float(weight.square().sum())
    return float((off / max(size, 1e-300)) ** 0.5)
