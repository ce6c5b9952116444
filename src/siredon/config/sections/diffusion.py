"""Text by filling in masks, not from left to right."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, planned


class DiffusionOptions(Section):
    """`diffusion:`, how tokens are masked, and filled in again."""

    noise_schedule: Literal["linear", "cosine"] = planned("How masking grows with time.", "linear")
    min_mask_ratio: Float = planned("Fewest tokens masked, as a fraction.", 0.1, ge=0, le=1)
    max_mask_ratio: Float = planned("Most tokens masked, as a fraction.", 0.9, ge=0, le=1)
    num_diffusion_steps: Int = planned("Steps from clean to masked.", 128)
    eps: Float = planned("Lowest chance of being masked.", 0.001, ge=0, le=1)
    importance_weighting: Bool = planned("A token weighs by one over its chance of being masked.", True)
    mask_token_id: Int | None = planned("Id of the mask token.")
    mask_token_str: Str | None = planned("Text of the mask token.")
    generate_samples: Bool = planned("Show samples while training.", True)
    generation_interval: Int = planned("Optimizer steps between samples.", 100)
    num_generation_samples: Int = planned("Samples shown at once.", 3)
    generation_steps: Int = planned("Steps that fill in one sample.", 128)
    generation_temperature: Float = planned("Sampling temperature; 0 takes the best token.", 0.0)
    generation_max_length: Int = planned("Longest sample, in tokens.", 100)


class DiffusionSection(Section):
    """Diffusion language models."""

    diffusion: DiffusionOptions | None = planned("Train by masking and filling in.")
