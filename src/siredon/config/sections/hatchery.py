"""Training on somebody else's machines."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, planned


class HatcheryOptions(Section):
    """`hatchery:`, the remote trainer and what it is asked for."""

    backend: Literal["tinker", "hatchery"] = planned("Service that trains.", "tinker")
    base_url: Str | None = planned("Address of the service.")
    api_key: Str | None = planned("Key to the service.")
    project_id: Str | None = planned("Project that the run belongs to.")
    lora_rank: Int = planned("Rank of LoRA there.", 32)
    train_attn: Bool = planned("LoRA on attention.", True)
    train_mlp: Bool = planned("LoRA on feed-forward layers.", True)
    train_unembed: Bool = planned("LoRA on the head.", True)
    loss_fn: Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro"] = planned(
        "Loss of the service.", "cross_entropy"
    )
    loss_fn_config: dict[str, Any] | None = planned("Settings of that loss.")
    pipeline: Bool = planned("Send the next batch before the last is done.", True)
    max_sample_tokens: Int = planned("Longest answer, in tokens.", 256)
    sample_temperature: Float = planned("Sampling temperature.", 1.0)
    num_samples: Int = planned("Answers per prompt.", 4)
    reward_funcs: StrList | None = planned("Dotted paths of functions that reward answers.")
    save_steps: Int | None = planned("Optimizer steps between checkpoints there.")
    save_name_prefix: Str = planned("Beginning of their names.", "checkpoint")
    future_timeout: Float = planned("Longest wait for a reply, in seconds.", 600.0)


class HatcherySection(Section):
    """A remote trainer."""

    hatchery: HatcheryOptions | None = planned("Train on a remote service.")
