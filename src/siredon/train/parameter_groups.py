"""Which trained parameter has which learning rate and weight decay.

Every trained parameter is in exactly one group.  The first group is the main one: its learning rate is the one that
is logged.  A schedule multiplies the rate of every group alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.optimizer import LrGroup, OptimizerSection
from siredon.errors import ModelError
from siredon.registry import suggest

MAIN = "main"
#: How many names a message lists.
_SHOWN = 20


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one weight decay.

    Args:
        label: What they are, for people.
        rate: Peak learning rate.
        decay: Weight decay.
        parameters: Name and parameter.
    """

    label: str
    rate: float
    decay: float
    parameters: list[tuple[str, torch.nn.Parameter]] = field(default_factory=list)

    def describe(self) -> str:
        """For people."""
        count = sum(parameter.numel() for _, parameter in self.parameters)
        return f"{self.label}: {count:,} parameters, learning rate {self.rate:g}, weight decay {self.decay:g}"


def group_parameters(
    model: Any, decays: Iterable[str], optimizer: OptimizerSection, adapter: AdapterSection
) -> list[ParameterGroup]:
    """The groups, the main one first.

    A parameter belongs to the first of these that it fits: an entry of `lr_groups`, in their order; LoRA+; the
    embeddings; the main group.

    Args:
        model: The module that is trained.
        decays: Names of parameters that have weight decay: no biases and no weights of normalizations.
        optimizer: Learning rates and weight decay.
        adapter: LoRA+ (Hayou et al., "LoRA+", 2024, https://arxiv.org/abs/2402.12354).

    Raises:
        ModelError: Nothing is trained, or a group that the config asks for would be empty.
    """
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if not trained:
        raise ModelError(
            "no parameter is trained: every weight is frozen", "Unfreeze layers, or add an adapter."
        )
    _check_modules(optimizer.lr_groups or (), [name for name, _ in trained])
    embeddings = find_embeddings(model)
    decaying = set(decays)
    found: dict[tuple[Any, ...], ParameterGroup] = {}
    for name, parameter in trained:
        label, rate = _choose_rate(name, id(parameter) in embeddings, optimizer, adapter)
        decay = optimizer.weight_decay if name in decaying else 0.0
        # Kernels that update many tensors at once take those of one mesh only.
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        group = found.setdefault((label, decay, mesh), ParameterGroup(label, rate, decay))
        group.parameters.append((name, parameter))
    groups = sorted(found.values(), key=lambda group: (group.label != MAIN, group.decay == 0))
    _check_groups(groups, optimizer, adapter)
    grouped = [id(parameter) for group in groups for _, parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for _, parameter in trained), "each is in one group"
    return groups


def find_embeddings(model: Any) -> frozenset[int]:
    """The `id` of every parameter of the input embeddings and of the head, also of adapters around them."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return frozenset(id(value) for module in modules if module is not None for value in module.parameters())


def find_targets(model: Any, targets: Sequence[str]) -> frozenset[int]:
    """The `id` of the trained weight of every linear layer that `optim_target_modules` names.

    Raises:
        ModelError: A target names no trained linear layer.
    """
    head = model.get_output_embeddings()
    linear = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad
    }
    found: set[int] = set()
    for target in targets:
        if target.replace("-", "_") == "all_linear":
            matched = [weight for weight in linear.values() if head is None or weight is not head.weight]
        else:
            matched = [weight for name, weight in linear.items() if target in name]
        if not matched:
            raise ModelError(
                f"optim_target_modules: `{target}` is in the name of no trained linear layer",
                _show_names(target, linear),
            )
        found |= {id(weight) for weight in matched}
    return frozenset(found)


def _choose_rate(
    name: str, is_embedding: bool, optimizer: OptimizerSection, adapter: AdapterSection
) -> tuple[str, float]:
    """Label and learning rate of a parameter."""
    for group in optimizer.lr_groups or ():
        if any(module in name for module in group.modules):
            return group.name, group.lr
    if adapter.loraplus_lr_ratio is not None:
        if "lora_embedding_" in name:
            return "LoRA+ embeddings", adapter.loraplus_lr_embedding
        if "lora_B" in name:
            return "LoRA+ B", adapter.loraplus_lr_ratio * optimizer.learning_rate
    elif is_embedding and optimizer.embedding_lr is not None:
        return "embeddings", optimizer.embedding_lr
    elif is_embedding and optimizer.embedding_lr_scale is not None:
        return "embeddings", optimizer.embedding_lr_scale * optimizer.learning_rate
    return MAIN, optimizer.learning_rate


def _check_modules(groups: Sequence[LrGroup], names: Sequence[str]) -> None:
    """Refuses a part of a name that no trained parameter has.

    Raises:
        ModelError: Which, and what there is.
    """
    for group in groups:
        for module in group.modules:
            if not any(module in name for name in names):
                raise ModelError(
                    f"lr_groups: `{module}` of the group `{group.name}` is in the name of no trained parameter",
                    _show_names(module, [name.rpartition(".")[0] for name in names]),
                )


def _check_groups(
    groups: Sequence[ParameterGroup], optimizer: OptimizerSection, adapter: AdapterSection
) -> None:
    """Refuses a learning rate that no parameter has.

    Raises:
        ModelError: Which, and why.
    """
    labels = {group.label for group in groups}
    for group in optimizer.lr_groups or ():
        if group.name not in labels:
            raise ModelError(
                f"lr_groups: every parameter of the group `{group.name}` belongs to an earlier group already",
                "Remove it, or put it first.",
            )
    if adapter.loraplus_lr_ratio is not None and "LoRA+ B" not in labels:
        raise ModelError("loraplus_lr_ratio: this model has no trained LoRA B", "Remove the key.")
    if (optimizer.embedding_lr or optimizer.embedding_lr_scale) and "embeddings" not in labels:
        key = "embedding_lr" if optimizer.embedding_lr else "embedding_lr_scale"
        raise ModelError(
            f"{key}: no embedding is trained, or `lr_groups` has them all",
            "Remove it, or train them: `lora_modules_to_save: [embed_tokens, lm_head]` beside LoRA.",
        )


def _show_names(word: str, names: Iterable[str]) -> str:
    """The nearest part of a module's name, and the parts that there are."""
    parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdecimal())
    shown = ", ".join(list(parts)[:_SHOWN])
    more = ", ..." if len(parts) > _SHOWN else ""
    return f"{suggest(word, parts)}Parts of names that there are: {shown}{more}."
