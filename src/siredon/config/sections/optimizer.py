"""Optimizer and learning rate."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key
from siredon.config.optimizer_words import read_arguments

Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "rmsprop",
    "adagrad",
    "adamw_anyprecision",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "ademamix",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "ademamix_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_radam",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "stable_adamw",
    "optimi_adamw",
    "ao_adamw_4bit",
    "ao_adamw_8bit",
    "ao_adamw_fp8",
    "adopt_adamw",
    "came_pytorch",
    "muon",
    "dion",
    "sinkgd",
    "flash_adamw",
    "flash_adam",
    "flash_sgd",
    "flash_sgdw",
    "flash_lion",
    "q_galore_adamw8bit",
    "lion",
    "adamw_bf16_sr",
]
#: In no maintained library, or kernels of one project that need a GPU; see docs/optimizers.md.
_PLANNED_OPTIMIZERS = (
    "adamw_anyprecision",
    "grokadamw",
    "sinkgd",
    "flash_adam",
    "flash_sgd",
    "flash_sgdw",
    "flash_lion",
)
#: Optimizers whose updates are part of the backward pass.
IN_BACKWARD = (
    "lomo",
    "adalomo",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "apollo_adamw_layerwise",
)
Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "reduce_lr_on_plateau",
    "warmup_stable_decay",
    "one_cycle",
    "rex",
]


class LrGroup(Section):
    """An entry of `lr_groups:`, layers with a learning rate of their own."""

    name: Str = key("Name of the group, for logs.")
    modules: StrList = key("Parts of layer names that belong to it.", min_length=1)
    lr: Float = key("Peak learning rate of the group.", gt=0)


class OptimizerSection(Section):
    """The optimizer and its settings."""

    learning_rate: Float = key("Peak learning rate.", gt=0)
    optimizer: Optimizer = key(
        "Name of the optimizer.",
        "adamw_torch_fused",
        planned_values=_PLANNED_OPTIMIZERS,
    )
    weight_decay: Float = key("Weight decay.", 0.0, ge=0)
    max_grad_norm: Float | None = key(
        "Gradients are clipped to this global norm; 0 clips nothing. Default 1.0, and 0 where weights are updated in "
        "the backward pass.",
        None,
        derived="clip_norm",
        ge=0,
    )
    adam_beta1: Float = key("First Adam beta.", 0.9, ge=0, lt=1)
    adam_beta2: Float = key("Second Adam beta.", 0.999, ge=0, lt=1)
    adam_epsilon: Float = key("Adam epsilon.", 1e-8, gt=0)
    adam_beta3: Float | None = key("Third beta, of CAME and AdEMAMix; default 0.9999.", None, ge=0, lt=1)
    adam_epsilon2: Float | None = key("Second epsilon, of CAME; default 1e-16.", None, gt=0)
    optim_args: Str | dict[str, Any] | None = key(
        "Further settings of the optimizer: a mapping, or `name=value,...`.", None
    )
    optim_target_modules: StrList | None = key(
        "Parts of names of the layers whose gradients GaLore and its kin compress; `all_linear` is every one but "
        "the head.",
        None,
    )
    embedding_lr: Float | None = key("Learning rate of embeddings and head.", None, gt=0)
    embedding_lr_scale: Float | None = key("The same, as a multiple of `learning_rate`.", None, gt=0)
    lr_groups: tuple[LrGroup, ...] | None = key("Layers with a learning rate of their own.", None)
    optimizer_in_backward: Bool = key(
        "Update each weight as soon as its gradient is there, and free the gradient.", False
    )

    @property
    def clip_norm(self) -> float:
        """Largest global norm of the gradients; 0 clips nothing."""
        if self.max_grad_norm is None:
            return 0.0 if self.updates_in_backward else 1.0
        return self.max_grad_norm

    @property
    def compressed_modules(self) -> tuple[str, ...]:
        """Parts of names of the layers whose gradients are compressed."""
        default = ("attn", "mlp") if self.optimizer == "q_galore_adamw8bit" else ()
        return self.optim_target_modules or default

    @property
    def settings(self) -> dict[str, Any]:
        """`optim_args`, read: text becomes the number, truth value or null that it spells, a list a tuple.

        Raises:
            ValueError: Text that is not `name=value,...`.
        """
        return read_arguments(self.optim_args)

    @property
    def updates_in_backward(self) -> bool:
        """Whether weights are updated during the backward pass, so that no step has all gradients at once."""
        return self.optimizer_in_backward or self.optimizer in IN_BACKWARD


class DionSection(Section):
    """Dion, an optimizer of orthogonal low-rank updates."""

    dion_lr: Float | None = key("Learning rate of the matrices; default `learning_rate`.", None, gt=0)
    dion_momentum: Float | None = key("Momentum of the matrices; default 0.95.", None, ge=0, lt=1)
    dion_rank_fraction: Float = key("Rank of an update as a part of the full rank.", 1.0, gt=0, le=1)
    dion_rank_multiple_of: Int = key("The rank is raised to a multiple of this.", 1, ge=1)


class QGaloreSection(Section):
    """Q-GaLore, Adam in a quantized low-rank space."""

    qgalore_rank: Int = key("Rank of that space.", 256, ge=1)
    qgalore_update_proj_gap: Int = key("Optimizer steps after which the space is chosen anew.", 200, ge=1)
    qgalore_scale: Float = key("Factor on updates that come back from it.", 0.25, gt=0)
    qgalore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = key(
        "Sides of a matrix that are projected.", "std"
    )
    qgalore_proj_quant: Bool = key("Hold the projections quantized.", True)
    qgalore_proj_bits: Int = key("Bits per value of a projection, at most 8.", 4, ge=2, le=8)
    qgalore_proj_group_size: Int = key("Values of a projection that share a scale.", 256, ge=1)
    qgalore_cos_threshold: Float = key("Cosine from which the old space is still good enough.", 0.4)
    qgalore_gamma_proj: Int = key("Factor by which a stable layer waits longer.", 2, ge=1)
    qgalore_queue_size: Int = key("Past comparisons that decide whether it is stable.", 5, ge=1)


class GrokfastSection(Section):
    """Grokfast: slow parts of the gradients are amplified."""

    grokfast: Bool = key("Amplify what the gradients of many steps have in common.", False)
    grokfast_alpha: Float = key("Decay of the running average of gradients.", 0.98, ge=0, lt=1)
    grokfast_lamb: Float = key("Weight with which the average is added.", 2.0, ge=0)


class ScheduleSection(Section):
    """The learning rate over the run."""

    lr_scheduler: Schedule = key("Shape of the learning rate after warm-up.", "cosine")
    lr_scheduler_kwargs: dict[str, Any] = key("Further settings of the schedule, each with its name.", {})
    warmup_steps: Int | None = key(
        "Optimizer steps of warm-up; default 3 % of the run, at most 100.", None, ge=0
    )
    warmup_ratio: Float | None = key("Warm-up as a fraction of the run.", None, ge=0, le=1)
    lr_quadratic_warmup: Bool | None = key("Warm up along a parabola, with `cosine`.", None)
    cosine_min_lr_ratio: Float | None = key("`cosine` ends at this fraction of the peak.", None, ge=0, le=1)
    cosine_constant_lr_ratio: Float | None = key(
        "Fraction of the run after which `cosine` is flat.", None, ge=0, le=1
    )
    jagged_restart_steps: Int | None = key(
        "Optimizer steps between restarts of the learning rate (ReLoRA).", None, ge=1
    )
    jagged_restart_warmup_steps: Int | None = key(
        "Warm-up after each, in optimizer steps; default 10.",
        None,
        ge=0,
        derived="num_restart_warmup_steps",
    )
    jagged_restart_anneal_steps: Int | None = key(
        "Decay before each, in optimizer steps; default 1.", None, ge=0, derived="num_restart_anneal_steps"
    )

    def num_warmup_steps(self, num_steps: int) -> int:
        """Warm-up in optimizer steps for a run of `num_steps`."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * num_steps)
        return min(round(0.03 * num_steps), 100)

    @property
    def num_restart_warmup_steps(self) -> int:
        """Warm-up after a restart, in optimizer steps."""
        return 10 if self.jagged_restart_warmup_steps is None else self.jagged_restart_warmup_steps

    @property
    def num_restart_anneal_steps(self) -> int:
        """Decay before a restart, in optimizer steps."""
        return 1 if self.jagged_restart_anneal_steps is None else self.jagged_restart_anneal_steps

    @property
    def reads_peak(self) -> bool:
        """Whether the shape depends on `learning_rate`: on a lowest rate that is not a part of it."""
        return self.lr_scheduler == "polynomial" or "min_lr" in self.lr_scheduler_kwargs

    @property
    def settings(self) -> dict[str, Any]:
        """What the schedule is built with: `lr_scheduler_kwargs`, and the keys that belong to `cosine`.

        YAML reads `1e-7` as text; here it is the number.
        """
        found = {name: read_number(value) for name, value in self.lr_scheduler_kwargs.items()}
        if self.lr_scheduler == "cosine":
            own = {
                "min_lr_ratio": self.cosine_min_lr_ratio,
                "constant_lr_ratio": self.cosine_constant_lr_ratio,
                "quadratic_warmup": self.lr_quadratic_warmup,
            }
            found |= {name: value for name, value in own.items() if value is not None}
        return {name: value for name, value in found.items() if value is not None}


def read_number(value: object) -> object:
    """The number that a text is, or the value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
