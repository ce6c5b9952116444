"""Config and model -> the optimizer, from the shelf `optimizers/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.optimizer import (
    DionSection,
    GrokfastSection,
    OptimizerSection,
    QGaloreSection,
)
from siredon.distributed.ranks import num_ranks
from siredon.errors import ModelError
from siredon.log import note
from siredon.registry import Shelf
from siredon.train.parameter_groups import find_embeddings, find_targets, group_parameters

OPTIMIZERS = Shelf("siredon.train.optimizers", "OPTIMIZER", "optimizer")

#: A group as `torch.optim` takes it: `params`, `lr`, `weight_decay`.
TorchGroup = dict[str, Any]


@dataclass(frozen=True)
class OptimizerPlan:
    """What the config says of the optimizer.

    Args:
        section: Its name, rates and settings.
        dion: Settings of Dion.
        qgalore: Settings of Q-GaLore.
        grokfast: Settings of Grokfast.
        adapter: LoRA+.
        seed: Seed of random projections and random rounding.
    """

    section: OptimizerSection
    dion: DionSection
    qgalore: QGaloreSection
    grokfast: GrokfastSection
    adapter: AdapterSection
    seed: int

    @classmethod
    def of(cls, config: Config) -> OptimizerPlan:
        """Those of a config."""
        return cls(
            config.optimizer,
            config.dion,
            config.qgalore,
            config.grokfast,
            config.adapter,
            config.batch.seed,
        )


@dataclass(frozen=True)
class Material:
    """What a part of the shelf makes its optimizer of, beside the groups.

    Args:
        section: The optimizer's settings.
        dion: Settings of Dion.
        qgalore: Settings of Q-GaLore.
        arguments: `optim_args`, as values; the checks know that the optimizer takes them.
        embeddings: `id` of each parameter of embeddings and head.
        targets: `id` of each weight that `optim_target_modules` names.
        seed: Seed of random projections and random rounding.
    """

    section: OptimizerSection
    dion: DionSection
    qgalore: QGaloreSection
    arguments: Mapping[str, Any]
    embeddings: frozenset[int]
    targets: frozenset[int]
    seed: int

    @property
    def adam(self) -> dict[str, Any]:
        """`betas` and `eps` of an Adam."""
        return {"betas": (self.section.adam_beta1, self.section.adam_beta2), "eps": self.section.adam_epsilon}


#: A part of the shelf.
Builder = Callable[[list[TorchGroup], Material], torch.optim.Optimizer]


def build_optimizer(model: Any, decays: Iterable[str], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """The optimizer of a run.

    Args:
        model: The module that is trained.
        decays: Names of parameters that have weight decay.
        plan: What the config says.

    Raises:
        ModelError: The model has nothing of what the config names, or the optimizer cannot run here.
    """
    section = plan.section
    groups = group_parameters(model, decays, section, plan.adapter)
    if len({group.label for group in groups}) > 1:
        for group in groups:
            note(f"  {group.describe()}")
    build: Builder = OPTIMIZERS.load(section.optimizer)
    material = Material(
        section,
        plan.dion,
        plan.qgalore,
        section.settings,
        find_embeddings(model),
        find_targets(model, section.compressed_modules),
        plan.seed,
    )
    torch_groups: list[TorchGroup] = [
        {
            "params": [parameter for _, parameter in group.parameters],
            "lr": group.rate,
            "weight_decay": group.decay,
        }
        for group in groups
    ]
    if section.updates_in_backward:
        return _build_in_backward(build, torch_groups, material)
    optimizer = _build(build, torch_groups, material)
    if plan.grokfast.grokfast:
        from siredon.train.grokfast import Grokfast

        return Grokfast(optimizer, plan.grokfast.grokfast_alpha, plan.grokfast.grokfast_lamb)
    return optimizer


def _build_in_backward(build: Builder, groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    from siredon.train.in_backward import InBackward

    if num_ranks() > 1:
        # A hook sees the gradient of this rank, before it is averaged with those of others.
        raise ModelError(
            "an update in the backward pass works with one process only: other ranks' gradients come later",
            "Run without torchrun, or use an optimizer that steps after the backward pass.",
        )
    return InBackward(groups, lambda group: _build(build, [group], material))


def _build(build: Builder, groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """The optimizer; a value of `optim_args` that it refuses is the user's to mend.

    Raises:
        ModelError: What it says.
    """
    try:
        return build(groups, material)
    except (TypeError, ValueError) as error:
        if not material.arguments:
            raise
        raise ModelError(
            f"optim_args: {material.section.optimizer} cannot be built with these values: {error}",
            "Mend the value; docs/optimizers.md lists what each optimizer takes.",
        ) from error
