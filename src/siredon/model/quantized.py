"""Weights in few bits: how they are read, what of them can be trained, and how they become whole again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.config.stored_bits import find_contradiction, find_lacking
from siredon.errors import ModelError
from siredon.hardware import Hardware, name_local_device
from siredon.log import note
from siredon.model.experts import find_packed, mark_experts_, packs_experts, widen_experts_
from siredon.model.locate import find_class
from siredon.registry import Shelf

QUANTIZERS = Shelf("siredon.model.quantizers", "QUANTIZER", "quantization")

#: Formats of weights on disk that are widened as they are read, and the class of transformers that reads them.
#: Nothing can be trained beside MXFP4; products of FP8 blocks need kernels that transformers fetches from a hub; and
#: weights of compressed-tensors would be widened all at once by the first product.
_WIDENED = {
    "mxfp4": "Mxfp4Config",
    "fp8": "FineGrainedFP8Config",
    "compressed-tensors": "CompressedTensorsConfig",
}


@dataclass(frozen=True)
class Quantizer:
    """A way of reading weights in few bits.

    Args:
        build: Settings and number format of a run -> quantization config of transformers; None leaves it to the
            weights' own config.
        describe: What a user should know of the weights, in one line.
        widen: A rounded layer -> its weight as products use it.
        settle_: Makes the loaded model fit to be trained beside, if anything is to be done.
    """

    build: Callable[[QuantizationSection, torch.dtype], Any]
    describe: Callable[[QuantizationSection, torch.dtype], str]
    widen: Callable[[Any], torch.Tensor]
    settle_: Callable[[Any], None] | None = None


#: What transformers calls the head of a model that gives scores.
_SCORES = "score"


def leave_scores_whole_(options: dict[str, Any]) -> None:
    """Keeps the new head of a model that gives scores out of what is rounded: it is trained.

    transformers leaves out heads over words by itself.

    Args:
        options: What `from_pretrained` is told.
    """
    found = options.get("quantization_config")
    if found is None:
        return
    names = {"BitsAndBytesConfig": "llm_int8_skip_modules", "TorchAoConfig": "modules_to_not_convert"}
    name = names.get(type(found).__name__)
    if name is not None:
        setattr(found, name, [*(vars(found).get(name) or ()), _SCORES])


def choose_reading(
    section: QuantizationSection,
    config: Any,
    dtype: torch.dtype,
    hardware: Hardware,
    experts: ExpertSection | None = None,
) -> dict[str, Any]:
    """What `from_pretrained` is told of few bits; nothing where all weights are whole.

    A weight is rounded as soon as it is read, on the device that trains it, so the whole model in 16 bits is never
    there.

    Args:
        section: What the file asks for.
        config: The model's own config, which says how its weights are stored.
        dtype: Format of the weights that stay whole, and of the products.
        hardware: What the model will run on.
        experts: Whether stacked experts are rounded, too.

    Raises:
        ModelError: The weights are stored in another way than the file says.
    """
    stored = config.to_dict().get("quantization_config") or {}
    method = read_method(config)
    packs = experts is not None and packs_experts(experts, section)
    problem = find_contradiction(section, stored)
    if problem is not None:
        raise ModelError(f"{problem.key}: {problem.message}", problem.fix)
    placed = {"device_map": {"": name_local_device(hardware)}}
    for package, install in find_lacking(method):
        raise ModelError(
            f"base_model: its weights are stored by {method}, which takes the package {package}",
            f"Install it: `{install}`; or name the model's 16-bit weights.",
        )
    if method and packs:
        raise ModelError(
            f"`quantize_moe_experts: true`: the weights are stored in few bits already, by {method}",
            "Name the model's 16-bit weights: all of them are rounded as they are read.",
        )
    if method in _WIDENED:
        options = section.model_quantization_config_kwargs or {}
        build = find_class("model_quantization_config", _WIDENED[method], "Upgrade transformers.")
        note(
            f"base: stored in {_shown(method)}, widened to {_name(dtype)} as it is read, so that it can be trained"
        )
        return {"quantization_config": build(**{**options, "dequantize": True})}
    if method:
        note(
            f"weights stored in few bits ({method}), read as they are; only an adapter can be trained beside"
        )
        return placed
    for way in section.ways:
        quantizer = QUANTIZERS.load(way)
        note(f"base: {quantizer.describe(section, dtype)}")
        settings = quantizer.build(section, dtype)
        return {"quantization_config": mark_experts_(settings, section) if packs else settings, **placed}
    return {}


def read_method(config: Any) -> str:
    """How weights are stored in few bits, by the model's own config before it is read; empty for whole ones."""
    stored = config.to_dict().get("quantization_config") or {}
    return _method(stored.get("quant_method", ""))


def choose_dtype(config: Any, dtype: torch.dtype) -> torch.dtype:
    """The format of what is not rounded: that of the folder for weights of torchao, which go with no other.

    Args:
        config: The model's own config.
        dtype: What is asked for.
    """
    stored = config.dtype
    return stored if read_method(config) == "torchao" and isinstance(stored, torch.dtype) else dtype


def settle_quantized_(model: Any, method: str) -> None:
    """Makes a model that was just loaded in few bits fit to be trained beside.

    Args:
        model: The model.
        method: How its weights were stored; see `read_method`.
    """
    if method in _WIDENED:
        # It would be written as it was read, and is no longer: in few bits, beside a config that says nothing of them.
        vars(model).pop("_weight_conversions", None)
    if method == "compressed-tensors":
        from compressed_tensors.offload import remove_dispatch

        # It was widened between hooks that move every layer's inputs to where its weights were read, the CPU.
        remove_dispatch(model)
    quantizer = _quantizer(model)
    part = None if quantizer is None else _find_part(quantizer.quantization_config)
    if part is not None and part.settle_ is not None:
        part.settle_(model)


def check_trainable(model: Any, section: AdapterSection) -> None:
    """Only an adapter is trained beside weights in few bits, and none of these in full.

    Raises:
        ModelError: Every weight would be trained, or a rounded layer in full, or the format has no gradient.
    """
    quantizer = _quantizer(model)
    if quantizer is None:
        return
    method = _method(quantizer.quantization_config.quant_method)
    if section.adapter is None:
        raise ModelError(
            f"base_model: its weights are held in few bits ({method}), and rounded weights cannot be trained",
            "Add `adapter: lora`, or name the model's 16-bit weights.",
        )
    if not quantizer.is_trainable:
        raise ModelError(
            f"base_model: transformers has no training beside weights held by {method}",
            "Name the model's 16-bit weights, and round them with `load_in_4bit: true`.",
        )
    rounded = {name for name, _ in find_rounded(model)} | {path for path, _, _ in find_packed(model)}
    if section.peft_use_dora and _loses_scales(model, quantizer.quantization_config):
        raise ModelError(
            "`peft_use_dora: true` beside `load_in_8bit` does not work on a CPU: there PEFT loses the scales of the "
            "weights after the first step",
            "Use `load_in_4bit` with `adapter: qlora`, or a GPU.",
        )
    for name in section.lora_modules_to_save:
        if any(full == name or full.endswith(f".{name}") for full in rounded):
            raise ModelError(
                f"`lora_modules_to_save: {name}` is held in few bits, and cannot be trained in full",
                f"Give it LoRA: `lora_target_modules: [{name}]`. Embeddings and head are not rounded.",
            )


@contextmanager
def taken_for_whole(model: Any) -> Iterator[None]:
    """While it is open, transformers takes a model for one of whole weights: it makes no trainer for others.

    Args:
        model: It is validated, and not trained.
    """
    is_marked = bool(vars(model).get("is_quantized"))
    if is_marked:
        model.is_quantized = False
    try:
        yield
    finally:
        if is_marked:
            model.is_quantized = True


def keep_from_ranks_(model: Any) -> None:
    """Tells data parallelism to pass over weights of torchao, which are several tensors each, and cannot be sent.

    Every rank has read and rounded the same weights.

    Args:
        model: What is trained, with its adapter.
    """
    names = [name for name, weight in model.named_parameters() if type(weight.data) is not torch.Tensor]
    if names:
        parallel: Any = torch.nn.parallel.DistributedDataParallel
        parallel._set_params_and_buffers_to_ignore_for_model(model, names)


def find_rounded(model: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers whose weight is held in few bits, with their names."""
    for name, module in model.named_modules():
        weight = vars(module).get("_parameters", {}).get("weight")
        # Classes of bitsandbytes and torchao: they pass for a parameter, and are none by type.
        if weight is not None and type(weight) is not torch.nn.Parameter:
            yield name, module


def mixes_tokens(model: Any) -> bool:
    """Whether a product rounds a token's input by what the others of the batch hold.

    LLM.int8() keeps every column whole that holds an outlier, of whichever token.
    """
    rounded: Iterator[tuple[str, Any]] = find_rounded(model)
    return any(
        type(layer.weight).__name__ == "Int8Params" and layer.state.threshold > 0 for _, layer in rounded
    )


def count_weights(parameter: torch.Tensor) -> int:
    """How many weights a tensor stands for: one of 4-bit weights packs two into each byte."""
    state = vars(parameter).get("quant_state")
    return parameter.numel() if state is None else math.prod(state.shape)


def widen_(model: Any) -> Any:
    """Puts plain linear layers in fp32 in place of rounded ones: their weights are exactly those of training.

    Returns:
        The model, in fp32 on the CPU.

    Raises:
        ModelError: The format cannot be turned back.
    """
    quantizer = _quantizer(model)
    if quantizer is None:
        return model.float()
    part = _find_part(quantizer.quantization_config)
    if part is None:
        raise ModelError(
            f"weights held by {_method(quantizer.quantization_config.quant_method)} cannot be widened, "
            "so nothing can be merged into them",
            "Use the adapter beside them, or name the model's 16-bit weights as `base_model` and merge into those.",
        )
    for name, rounded in list(find_rounded(model)):
        layer = torch.nn.Linear(rounded.in_features, rounded.out_features, bias=False, device="meta")  # type: ignore[arg-type]
        layer.weight = torch.nn.Parameter(part.widen(rounded).float().cpu(), requires_grad=False)
        layer.bias = vars(rounded)["_parameters"].get("bias")
        model.set_submodule(name, layer)
    widen_experts_(model)
    quantizer.remove_quantization_config(model)
    # Where a map of devices was given, accelerate refuses to move the model.
    return torch.nn.Module.to(model, device="cpu", dtype=torch.float32)


def _loses_scales(model: Any, settings: Any) -> bool:
    """Whether PEFT's DoRA, which moves an 8-bit weight to the CPU after it has looked at it, would lose its scales."""
    is_8bit = _method(settings.quant_method) == "bitsandbytes" and settings.load_in_8bit
    return bool(is_8bit and model.get_input_embeddings().weight.device.type == "cpu")


def _find_part(settings: Any) -> Quantizer | None:
    """The part that holds weights as these settings of transformers say; None for those of other libraries."""
    method = _method(settings.quant_method)
    if method == "bitsandbytes":
        part: Quantizer = QUANTIZERS.load("load_in_4bit" if settings.load_in_4bit else "load_in_8bit")
        return part
    return QUANTIZERS.load("load_in_torchao") if method == "torchao" else None


def _quantizer(model: Any) -> Any:
    """What transformers read the weights with; None where all of them are whole."""
    return vars(model).get("hf_quantizer")


def _method(name: Any) -> str:
    """`bitsandbytes` of what transformers calls `QuantizationMethod.BITS_AND_BYTES`, and of the plain word."""
    return str(name.value if isinstance(name, Enum) else name).lower()


def _shown(method: str) -> str:
    """Formats are abbreviations; the rest are names of packages."""
    return f"few bits by {method}" if "-" in method else method.upper()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
