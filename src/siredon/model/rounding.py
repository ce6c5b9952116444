"""`qat:`, training that feels the rounding to come: weights are rounded as they are used, not as they are held.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018, https://arxiv.org/abs/1712.05877; torchao's `QATConfig`.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import PtqOptions, QatOptions
from siredon.errors import ModelError
from siredon.log import note


def round_in_training_(model: Any, options: QatOptions) -> None:
    """Puts layers that round their weight, and their input if asked, in place of the linear ones but the head.

    The parameters stay the same objects, in full precision; what is saved of the model is plain weights.  Rounded by
    torchao with `build_layer_rounding(options)`, they give the logits of the model as it was trained.

    Raises:
        ModelError: The inputs of a layer do not come in whole groups.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    head = model.get_output_embeddings()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    sizes = {name: layer.in_features for name, layer in layers.items()}
    if options.quantize_embedding:
        sizes |= {f"embeddings {index}": table.embedding_dim for index, table in enumerate(tables)}
    check_groups(sizes, options, "qat")
    _round_layers_(model, layers, options)
    if options.quantize_embedding:
        chosen = {id(table) for table in tables}
        quantize_(model, QATConfig(build_table_rounding(options)), lambda module, name: id(module) in chosen)
    weights, to = options.formats
    inputs = f", inputs to {to}" if to else ""
    group = (
        f"{options.weights_per_scale} weights a scale"
        if options.weights_per_scale
        else "a scale for each row"
    )
    also = " and the embeddings" if options.quantize_embedding else ""
    note(
        f"qat: {len(layers)} linear layers{also} rounded to {weights} as they are used, "
        f"{group}{inputs}; the head is not"
    )


def _round_layers_(model: Any, layers: dict[str, torch.nn.Linear], options: QatOptions) -> None:
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    if options.rounds_to_floats:
        from siredon.model.float_rounding import build_float_layer

        for name, layer in layers.items():
            model.set_submodule(name, build_float_layer(layer, options))
        return
    chosen = {id(layer) for layer in layers.values()}
    quantize_(model, QATConfig(build_layer_rounding(options)), lambda module, name: id(module) in chosen)


def build_layer_rounding(options: QatOptions | PtqOptions) -> Any:
    """The config of torchao that holds linear layers in these formats; of `qat`, the way that training felt."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
    )
    from torchao.quantization.granularity import PerGroup

    if options.rounds_to_floats:
        from siredon.model.float_rounding import build_float_config

        return build_float_config(options)
    rounds_inputs = options.activation_dtype is not None
    if not options.weights_per_scale:
        return Int8DynamicActivationInt8WeightConfig() if rounds_inputs else Int8WeightOnlyConfig()
    dtype, group = _WEIGHTS[options.weight_dtype], PerGroup(options.weights_per_scale)
    if not rounds_inputs:
        return IntxWeightOnlyConfig(weight_dtype=dtype, granularity=group)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=group)


def build_table_rounding(options: QatOptions | PtqOptions) -> Any:
    """The same for embeddings, which have no input to round."""
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup

    group = PerGroup(options.weights_per_scale) if options.weights_per_scale else PerAxis(0)
    return IntxWeightOnlyConfig(weight_dtype=_WEIGHTS[options.weight_dtype], granularity=group)


def switch_rounding_(model: Any, *, on: bool) -> None:
    """Lets the layers of `round_in_training_` round, or be the linear layers that they were."""
    from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

    for module in model.modules():
        if isinstance(module, FakeQuantizerBase):
            module.enabled = on


def check_groups(sizes: dict[str, int], options: QatOptions | PtqOptions, key: str) -> None:
    """The inputs of each layer come in whole groups.

    Args:
        sizes: Name of a layer -> its inputs.
        options: How they are rounded.
        key: Where that is said, for the message.

    Raises:
        ModelError: Those of one do not.
    """
    group = options.weights_per_scale
    for name, size in sizes.items():
        if group == 0 or size % group == 0:
            continue
        problem = f"the {size} inputs of {name} are no whole number of groups"
        if options.rounds_to_floats:
            raise ModelError(
                f"`{key}.weight_dtype: {options.weight_dtype}` takes {group} weights to a scale: {problem}",
                "Use another format: `weight_dtype: fp8`, or `int4` with a `group_size`.",
            )
        numbers = (256, 128, 64, 32, 16, 8, 4, 2)
        fitting = [number for number in numbers if not any(each % number for each in sizes.values())]
        raise ModelError(
            f"`{key}.group_size: {group}`: {problem}",
            f"Groups that fit every layer: {', '.join(map(str, fitting)) or 'none'}.",
        )


_WEIGHTS = {
    "int4": torch.int4,  # type: ignore[attr-defined]
    "int8": torch.int8,
}
