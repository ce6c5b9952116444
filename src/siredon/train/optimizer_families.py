"""What several words on the shelf `optimizers/` share: how the optimizers of one library are made."""

from __future__ import annotations

from typing import Any

import torch

from siredon.hardware import GPU
from siredon.log import warn
from siredon.train.optimize import Builder, Material, TorchGroup

#: Third beta of AdEMAMix and of CAME.
_BETA3 = 0.9999


def make_torch_adamw(*, fused: bool | None = None) -> Builder:
    """AdamW of PyTorch (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, fused=fused, **material.adam, **material.arguments)

    return build


def make_torch(kind: type[torch.optim.Optimizer]) -> Builder:
    """An optimizer of PyTorch without Adam's settings."""

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        return kind(groups, **material.arguments)

    return build


def make_adafactor(*, scales: bool) -> Builder:
    """Adafactor of transformers (Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235).

    Args:
        scales: Whether a step is as large as the weight is; its learning rate is the config's either way.
    """

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(
            groups, scale_parameter=scales, relative_step=False, **material.arguments
        )
        return adafactor

    return build


def make_bitsandbytes(kind: str, *, bits: int, paged: bool = False) -> Builder:
    """An optimizer of bitsandbytes (Dettmers et al., 2022, https://arxiv.org/abs/2110.02861).

    Args:
        kind: `AdamW`, `Lion`, `AdEMAMix` or `RMSprop`.
        bits: Bits per value of the state: 8 or 32.
        paged: The state may move to the RAM of the host where the GPU's runs out.
    """

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        from bitsandbytes import optim

        options: dict[str, Any] = {"optim_bits": bits}
        if kind != "RMSprop":
            options |= {"is_paged": paged and not _lies_in_ram(groups)} | _bitsandbytes_settings(
                kind, material
            )
        optimizer: torch.optim.Optimizer = vars(optim)[kind](groups, **options, **material.arguments)
        if bits == 8:
            _keep_embeddings_(optimizer, material.embeddings)
        return optimizer

    return build


def _bitsandbytes_settings(kind: str, material: Material) -> dict[str, Any]:
    section = material.section
    betas = (section.adam_beta1, section.adam_beta2)
    if kind == "Lion":
        return {"betas": betas}
    if kind == "AdEMAMix":
        return {
            "betas": (*betas, _BETA3 if section.adam_beta3 is None else section.adam_beta3),
            "eps": section.adam_epsilon,
        }
    return material.adam


def _lies_in_ram(groups: list[TorchGroup]) -> bool:
    in_ram = any(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    if in_ram:
        warn("a paged optimizer needs a GPU: here the same optimizer runs without pages")
    return in_ram


def _keep_embeddings_(optimizer: Any, embeddings: frozenset[int]) -> None:
    """Keeps the state of embeddings in 32 bits, as transformers does.

    With a manager of this optimizer's own: the one of bitsandbytes is the process's, and would keep the setting for
    every later optimizer.
    """
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.__new__(GlobalOptimManager)
    manager.initialize()
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if id(parameter) in embeddings:
                manager.index2config[(group_index, index)] = {"optim_bits": 32}
    optimizer.mng = manager


def make_torchao(kind: str) -> Builder:
    """AdamW of torchao: `AdamW4bit`, `AdamW8bit` or `AdamWFp8`, the bits of a value of its state.

    Small tensors, below 4,096 values, keep a state in full precision.
    """

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        from torchao import optim

        optimizer: torch.optim.Optimizer = vars(optim)[kind](groups, **material.adam, **material.arguments)
        return optimizer

    return build


def make_schedule_free(kind: str) -> Builder:
    """An optimizer of schedulefree (Defazio et al., 2024, https://arxiv.org/abs/2405.15682).

    It warms up as the schedule of the run does, so its own warm-up stays off.
    """

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        import schedulefree

        adam = {} if kind == "SGDScheduleFree" else material.adam
        optimizer: torch.optim.Optimizer = vars(schedulefree)[kind](groups, **adam, **material.arguments)
        return optimizer

    return build


def make_optimi(kind: str) -> Builder:
    """An optimizer of torch-optimi: `AdamW`, `StableAdamW` or `Lion`.

    Weights in 16 bits are updated with Kahan's compensation.
    """

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        import optimi

        adam = {"betas": material.adam["betas"]} if kind == "Lion" else material.adam
        # Its StableAdamW takes Triton wherever that is installed, also for weights that are on no GPU.
        on_gpu = all(weight.device.type == GPU for group in groups for weight in group["params"])
        options = ({} if on_gpu else {"triton": False}) | dict(material.arguments)
        optimizer: torch.optim.Optimizer = vars(optimi)[kind](
            groups, lr=material.section.learning_rate, **adam, **options
        )
        return optimizer

    return build


def make_pytorch_optimizer(kind: str) -> Builder:
    """An optimizer of pytorch-optimizer with Adam's settings and decoupled weight decay."""

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        import pytorch_optimizer

        options = {"weight_decouple": True} if kind == "ADOPT" else {}
        optimizer: torch.optim.Optimizer = vars(pytorch_optimizer)[kind](
            groups, **material.adam, **(options | dict(material.arguments))
        )
        return optimizer

    return build


def build_came(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """CAME of pytorch-optimizer, with the paper's epsilons unless the config sets others."""
    import pytorch_optimizer

    section = material.section
    betas = (section.adam_beta1, section.adam_beta2)
    came: torch.optim.Optimizer = pytorch_optimizer.CAME(
        groups,
        betas=(*betas, _BETA3 if section.adam_beta3 is None else section.adam_beta3),
        # Adam's epsilon is far too large here: it is added to a square.
        eps1=section.adam_epsilon if "adam_epsilon" in section.model_fields_set else 1e-30,
        eps2=1e-16 if section.adam_epsilon2 is None else section.adam_epsilon2,
        **material.arguments,
    )
    return came
