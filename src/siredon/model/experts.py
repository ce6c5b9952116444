"""`quantize_moe_experts`: stacked experts are rounded as they are read, one stack at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from siredon.config.sections.experts import ExpertSection
from siredon.config.sections.quantization import QuantizationSection
from siredon.errors import ModelError
from siredon.log import note, warn
from siredon.model.packed import PackedExperts, Packing

#: What transformers calls a way of reading that is ours.
_WAYS = {"load_in_4bit": "siredon_experts_4bit", "load_in_8bit": "siredon_experts_8bit"}
#: Layers that hold a weight of three axes which are no experts.
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)


def packs_experts(experts: ExpertSection, quantization: QuantizationSection) -> bool:
    """Whether stacked experts are rounded: not those of a model that a run wrote, which is read whole."""
    return experts.quantize_moe_experts and bool(quantization.ways)


def choose_packing(section: QuantizationSection) -> Packing:
    """How experts are rounded: as the linear layers beside them in 4 bits; in blocks of 256 in 8 bits."""
    if section.load_in_8bit:
        return Packing("int8")
    options = section.bnb_config_kwargs or {}
    twice = options.get("bnb_4bit_use_double_quant", True)
    return Packing(str(options.get("bnb_4bit_quant_type", "nf4")).lower(), bool(twice))


def mark_experts_(settings: Any, section: QuantizationSection) -> Any:
    """Has transformers read weights with these settings of bitsandbytes, and round stacked experts, too.

    Args:
        settings: `BitsAndBytesConfig`; its method is another word until the weights are read.
        section: What the file asks for.

    Returns:
        The same settings.
    """
    way = "load_in_8bit" if section.load_in_8bit else "load_in_4bit"
    _register_reading()
    settings.quant_method = _WAYS[way]
    settings.expert_packing = choose_packing(section)
    return settings


def report_experts(model: Any, experts: ExpertSection, quantization: QuantizationSection) -> None:
    """Says what memory stacked experts take, or that they were left whole beside rounded layers.

    Raises:
        ModelError: There is none to round.
    """
    packed = [tensor for _, _, tensor in find_packed(model)]
    if packed:
        num_bytes, whole = (
            sum(tensor.num_bytes for tensor in packed),
            sum(tensor.nbytes for tensor in packed),
        )
        note(
            f"experts: {len(packed)} stacks held in {num_bytes / 2**30:.2f} GiB "
            f"({packed[0].packing.kind.upper()}) in place of {whole / 2**30:.2f}"
        )
    elif packs_experts(experts, quantization):
        raise ModelError(
            f"`quantize_moe_experts: true`: {type(model).__name__} has no stacked experts",
            "Remove the key: `load_in_4bit` and `load_in_8bit` round every linear layer.",
        )
    stacks = [
        weight
        for name, weight in model.named_parameters()
        if is_stack(model, name) and not isinstance(weight, PackedExperts)
    ]
    if stacks and not packed and (quantization.load_in_4bit or quantization.load_in_8bit):
        number_format = str(stacks[0].dtype).removeprefix("torch.")
        warn(
            f"experts: {len(stacks)} stacks, {sum(weight.nbytes for weight in stacks) / 2**30:.2f} GiB, stay in "
            f"{number_format}: `{quantization.ways[0]}` rounds linear layers only; add `quantize_moe_experts: true`"
        )


def find_packed(model: torch.nn.Module) -> Iterator[tuple[str, str, PackedExperts]]:
    """Module, name in it, and tensor of every rounded stack."""
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(weight, PackedExperts):
                yield path, name, weight


def widen_experts_(model: torch.nn.Module) -> None:
    """Puts plain parameters in fp32 on the CPU in place of rounded stacks: exactly the values of training."""
    for path, name, packed in list(find_packed(model)):
        weight = torch.nn.Parameter(packed.widen().float().cpu(), requires_grad=False)
        setattr(model.get_submodule(path), name, weight)


def is_stack(model: torch.nn.Module, name: str) -> bool:
    """Whether a parameter holds the matrices of several experts."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    weight = module._parameters.get(own)
    if weight is None or isinstance(module, _CONVOLUTIONS):
        return False
    return weight.ndim == 3 and weight.shape[0] > 1 and weight.is_floating_point()


def _register_reading() -> None:
    """Makes the two ways of reading known to transformers, once."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantizer
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

    for way, base in (("load_in_4bit", Bnb4BitHfQuantizer), ("load_in_8bit", Bnb8BitHfQuantizer)):
        if _WAYS[way] not in AUTO_QUANTIZER_MAPPING:
            register_quantizer(_WAYS[way])(_build_reader(base))


def _build_reader(base: Any) -> Any:
    """A quantizer of transformers for bitsandbytes that packs stacked experts, too."""
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers.quantizers_utils import should_convert_module
    from transformers.utils.quantization_config import QuantizationMethod

    class Rounding(ConversionOps):
        """Rounds what has been read of one parameter."""

        def __init__(self, reader: Any, inner: Any) -> None:
            self._packing = reader.quantization_config.expert_packing
            self._inner = inner

        def convert(self, input_dict: dict[str, Any], model: Any = None, **options: Any) -> dict[str, Any]:
            """Name -> rounded tensor."""
            rounded: dict[str, Any] = {}
            for name, value in input_dict.items():
                weight = value[0] if isinstance(value, list) else value
                if is_stack(model, name):
                    packed = PackedExperts.pack(weight, self._packing)
                    rounded[name] = torch.nn.Parameter(packed, requires_grad=False)
                else:
                    rounded |= self._inner.convert({name: weight}, model=model, **options)
            return rounded

    class Reader(base):
        """bitsandbytes for linear layers, and packed stacks."""

        def param_needs_quantization(self, model: Any, param_name: str, **options: Any) -> bool:
            """Also a stack of experts, unless `llm_int8_skip_modules` names it."""
            if is_stack(model, param_name):
                return bool(should_convert_module(param_name, self.modules_to_not_convert))
            return bool(super().param_needs_quantization(model, param_name, **options))

        def get_quantize_ops(self) -> Any:
            """What rounds one parameter."""
            return Rounding(self, super().get_quantize_ops())

        def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
            # From here on it is a model of bitsandbytes to everyone who asks.
            self.quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES
            model.quantization_method = QuantizationMethod.BITS_AND_BYTES
            del self.quantization_config.expert_packing
            return super()._process_model_after_weight_loading(model, **options)

    return Reader
