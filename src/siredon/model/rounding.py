"""`qat:`, training that feels the rounding to come: weights are rounded as they are used, not as they are held.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018, https://arxiv.org/abs/1712.05877; torchao's `QATConfig`.
"""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.quantization import QatOptions
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
    _check_groups(sizes, options.group_size)
    chosen = {id(layer) for layer in layers.values()}
    quantize_(model, QATConfig(build_layer_rounding(options)), lambda module, name: id(module) in chosen)
    if options.quantize_embedding:
        chosen = {id(table) for table in tables}
        quantize_(model, QATConfig(build_table_rounding(options)), lambda module, name: id(module) in chosen)
    inputs = f", inputs to {options.activation_dtype}" if options.activation_dtype else ""
    also = " and the embeddings" if options.quantize_embedding else ""
    note(
        f"qat: {len(layers)} linear layers{also} rounded to {options.weight_dtype} as they are used, "
        f"{options.group_size} weights a scale{inputs}; the head is not"
    )


def build_layer_rounding(options: QatOptions) -> Any:
    """The config of torchao that rounds linear layers in the way that training felt."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    dtype, group = _WEIGHTS[options.weight_dtype], PerGroup(options.group_size)
    if options.activation_dtype is None:
        return IntxWeightOnlyConfig(weight_dtype=dtype, granularity=group)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=group)


def build_table_rounding(options: QatOptions) -> Any:
    """The same for embeddings, which have no input to round."""
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    return IntxWeightOnlyConfig(
        weight_dtype=_WEIGHTS[options.weight_dtype], granularity=PerGroup(options.group_size)
    )


def switch_rounding_(model: Any, *, on: bool) -> None:
    """Lets the layers of `round_in_training_` round, or be the linear layers that they were."""
    from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

    for module in model.modules():
        if isinstance(module, FakeQuantizerBase):
            module.enabled = on


def _check_groups(sizes: dict[str, int], group: int) -> None:
    for name, size in sizes.items():
        if size % group:
            fitting = [
                number
                for number in (256, 128, 64, 32, 16, 8, 4, 2)
                if not any(s % number for s in sizes.values())
            ]
            raise ModelError(
                f"`qat.group_size: {group}`: the {size} inputs of {name} are no whole number of groups",
                f"Groups that fit every layer: {', '.join(map(str, fitting)) or 'none'}.",
            )


_WEIGHTS = {
    "int4": torch.int4,  # type: ignore[attr-defined]
    "int8": torch.int8,
}
