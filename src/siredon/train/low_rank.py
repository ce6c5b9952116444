"""GaLore: an optimizer whose state lives in a low-rank space of each gradient.

A gradient G [m, n] becomes U^T G [r, n] or G V [m, r], an ordinary optimizer makes its update N of it, and the weight
takes the step `scale` times U N or N V^T.  U and V are the leading singular vectors of a gradient of a few hundred
steps ago at most.

Source: Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", 2024,
https://arxiv.org/abs/2403.03507.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from siredon.train.optimize import Builder, Material, TorchGroup

Sides = Literal["std", "reverse_std", "right", "left", "full"]
_SIDES = ("std", "reverse_std", "right", "left", "full")


@dataclass(frozen=True)
class SpaceOptions:
    """How the low-rank space of a gradient is chosen.

    Args:
        rank: Its rank, at most the shorter side of the matrix.
        update_proj_gap: Steps after which it is chosen anew.
        scale: Factor on what comes back from it.
        proj_type: Sides that are projected: `std` the longer one, `reverse_std` the shorter one.
        bits: Bits per value of a projection; None for its full precision.
        group_size: Values of a projection that share a scale.
        cos_threshold: Mean cosine of old and new vectors from which a layer counts as stable.
        gamma_proj: A stable layer waits this many times as long.
        queue_size: Comparisons that the mean is of; 0 leaves the gap as it is.
    """

    rank: int = 128
    update_proj_gap: int = 200
    scale: float = 0.25
    proj_type: Sides = "std"
    bits: int | None = None
    group_size: int = 256
    cos_threshold: float = 0.4
    gamma_proj: int = 2
    queue_size: int = 0

    def __post_init__(self) -> None:
        if self.proj_type not in _SIDES:
            raise ValueError(f"proj_type is one of {', '.join(_SIDES)}, not {self.proj_type!r}")


class Space:
    """The low-rank space of one matrix, and when it is chosen anew.

    Args:
        shape: m and n.
        options: How it is chosen.
    """

    def __init__(self, shape: torch.Size, options: SpaceOptions) -> None:
        rows, columns = shape
        right = {"std": rows >= columns, "reverse_std": rows < columns}
        kind = options.proj_type
        self.has_right = kind in ("right", "full") or right.get(kind, False)
        self.has_left = kind in ("left", "full") or not right.get(kind, True)
        self._options = options
        rank = min(options.rank, rows, columns)
        self.shape = (rank if self.has_left else rows, rank if self.has_right else columns)
        self._rank = rank
        self.state: dict[str, Any] = {"step": 0, "gap": options.update_proj_gap, "age": 0, "cosines": []}

    def project(self, gradient: torch.Tensor) -> torch.Tensor:
        """[m, n] -> `shape`, in float32; chooses the space anew where it is time."""
        state = self.state
        whole = gradient.float()
        if state["step"] == 0 or state["age"] >= state["gap"]:
            self._choose(whole)
            state["age"] = 0
        state["step"] += 1
        state["age"] += 1
        left, right = self._vectors()
        whole = left.T @ whole if left is not None else whole
        return whole @ right if right is not None else whole

    def restore(self, update: torch.Tensor) -> torch.Tensor:
        """`shape` -> [m, n], in float32."""
        left, right = self._vectors()
        whole = update if left is None else left @ update
        return whole if right is None else whole @ right.T

    def _choose(self, gradient: torch.Tensor) -> None:
        vectors_left, _, vectors_right = torch.linalg.svd(gradient, full_matrices=False)
        chosen = {}
        if self.has_left:
            chosen["left"] = vectors_left[:, : self._rank].contiguous()
        if self.has_right:
            chosen["right"] = vectors_right[: self._rank].T.contiguous()
        self._compare(next(iter(chosen.values())))
        bits, size = self._options.bits, self._options.group_size
        for name, vectors in chosen.items():
            self.state[name] = vectors if bits is None else quantize(vectors, bits, size)

    def _compare(self, vectors: torch.Tensor) -> None:
        """A layer whose space hardly turns waits longer for the next one."""
        state, options = self.state, self._options
        if not options.queue_size:
            return
        first = vectors[:, 0].clone()
        if "first" in state:
            # A singular vector and its opposite span the same space.
            cosine = torch.nn.functional.cosine_similarity(first, state["first"], dim=0).abs().item()
            state["cosines"] = [*state["cosines"], cosine][-options.queue_size :]
            is_full = len(state["cosines"]) == options.queue_size
            if is_full and sum(state["cosines"]) / options.queue_size >= options.cos_threshold:
                state["gap"] = int(state["gap"] * options.gamma_proj)
        state["first"] = first

    def _vectors(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        left, right = (self.state.get(name) for name in ("left", "right"))
        if self._options.bits is None:
            return left, right
        return (None if left is None else restore(left), None if right is None else restore(right))


def quantize(values: torch.Tensor, bits: int, group_size: int) -> dict[str, Any]:
    """A tensor in whole numbers from 0 to 2^bits - 1, with a scale and a zero point for each group of values."""
    shape = values.shape
    flat = values.flatten()
    size = min(group_size, flat.numel())
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % size)).view(-1, size)
    low, high = padded.min(dim=1, keepdim=True).values, padded.max(dim=1, keepdim=True).values
    scale = (high - low).clamp(min=1e-12) / (2**bits - 1)
    codes = ((padded - low) / scale).round().to(torch.uint8)
    return {"codes": codes, "scale": scale, "low": low, "shape": tuple(shape)}


def restore(held: dict[str, Any]) -> torch.Tensor:
    """What `quantize` was given, to within half a scale."""
    flat: torch.Tensor = (held["codes"] * held["scale"] + held["low"]).flatten()
    rows, columns = held["shape"]
    return flat[: rows * columns].view(rows, columns)


class LowRankOptimizer(torch.optim.Optimizer):
    """An ordinary optimizer that sees projected gradients of the chosen matrices, and the others as they are.

    For each chosen matrix it optimizes a small stand-in: zero before each step, and the update after it.

    Args:
        groups: Parameters with `lr` and `weight_decay`.
        targets: `id` of each matrix that is projected.
        options: How.
        build: Groups -> the ordinary optimizer.
    """

    def __init__(
        self,
        groups: list[TorchGroup],
        targets: frozenset[int],
        options: SpaceOptions,
        build: Callable[[list[TorchGroup]], torch.optim.Optimizer],
    ) -> None:
        split: list[TorchGroup] = []
        for group in groups:
            chosen = [value for value in group["params"] if id(value) in targets]
            others = [value for value in group["params"] if id(value) not in targets]
            pieces = [
                {**group, "params": others, "is_projected": False},
                {**group, "params": chosen, "is_projected": True},
            ]
            split += [piece for piece in pieces if piece["params"]]
        super().__init__(split, {})
        self._scale = options.scale
        self._spaces: list[list[Space]] = []
        inner: list[TorchGroup] = []
        for group in self.param_groups:
            values = group["params"]
            spaces = [Space(value.shape, options) for value in values] if group["is_projected"] else []
            stand_ins = [
                torch.nn.Parameter(torch.zeros(space.shape, device=value.device))
                for space, value in zip(spaces, values, strict=False)
            ]
            # The weights decay here: a stand-in is no weight.
            decay = 0.0 if spaces else group["weight_decay"]
            inner.append({"params": stand_ins or list(values), "lr": group["lr"], "weight_decay": decay})
            self._spaces.append(spaces)
        self._inner = build(inner)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Projects the gradients, steps, and brings the updates back."""
        for group, inner, spaces in self._together():
            inner["lr"] = group["lr"]
            for value, small, space in zip(group["params"], inner["params"], spaces, strict=False):
                small.zero_()
                small.grad = None if value.grad is None else space.project(value.grad)
        self._inner.step()
        for group, inner, spaces in self._together():
            for value, small, space in zip(group["params"], inner["params"], spaces, strict=False):
                if value.grad is not None:
                    value.mul_(1 - group["lr"] * group["weight_decay"])
                    value.add_((self._scale * space.restore(small)).to(value.dtype))
                small.grad = None

    def _together(self) -> zip[tuple[TorchGroup, TorchGroup, list[Space]]]:
        return zip(self.param_groups, self._inner.param_groups, self._spaces, strict=True)

    def state_dict(self) -> dict[str, Any]:
        """The groups, the state of the optimizer inside, and the spaces."""
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in self.param_groups
        ]
        spaces = [[dict(space.state) for space in row] for row in self._spaces]
        return {"param_groups": groups, "inner": self._inner.state_dict(), "spaces": spaces}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        self._inner.load_state_dict(state_dict["inner"])
        for (group, _, spaces), row in zip(self._together(), state_dict["spaces"], strict=True):
            for value, space, saved in zip(group["params"], spaces, row, strict=False):
                space.state = _copy_to(saved, value.device)


def make_galore(kind: Literal["adamw", "adamw_8bit", "adafactor"]) -> Builder:
    """GaLore around an optimizer; its settings are those of `optim_args`."""

    def build(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
        options = SpaceOptions(**material.arguments)
        return LowRankOptimizer(
            groups, material.targets, options, lambda inner: _build_inner(kind, inner, material)
        )

    return build


def _build_inner(kind: str, groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    if kind == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(groups, scale_parameter=False, relative_step=False)
        return adafactor
    if kind == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        adamw: torch.optim.Optimizer = AdamW8bit(groups, **material.adam)
        return adamw
    return torch.optim.AdamW(groups, **material.adam)


def build_q_galore(groups: list[TorchGroup], material: Material) -> torch.optim.Optimizer:
    """Q-GaLore: 8-bit AdamW, quantized projections, and a layer that is stable waits longer for the next.

    Source: Zhang et al., "Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients",
    2024, https://arxiv.org/abs/2407.08296.
    """
    section = material.qgalore
    options = SpaceOptions(
        rank=section.qgalore_rank,
        update_proj_gap=section.qgalore_update_proj_gap,
        scale=section.qgalore_scale,
        proj_type=section.qgalore_proj_type,
        bits=section.qgalore_proj_bits if section.qgalore_proj_quant else None,
        group_size=section.qgalore_proj_group_size,
        cos_threshold=section.qgalore_cos_threshold,
        gamma_proj=section.qgalore_gamma_proj,
        queue_size=section.qgalore_queue_size,
    )
    return LowRankOptimizer(
        groups, material.targets, options, lambda inner: _build_inner("adamw_8bit", inner, material)
    )


def _copy_to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {name: _copy_to(item, device) for name, item in value.items()}
    return list(value) if isinstance(value, list) else value
