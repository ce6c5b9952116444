"""`adapter: randlora`: sums of random low-rank products, scaled by trained vectors, through PEFT.

Source: Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning of large models", 2025,
https://arxiv.org/abs/2502.00987.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_randlora_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and trains the scales of random products for each of the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import RandLoraConfig

    return attach_peft_(model, section, RandLoraConfig)


ADAPTER = attach_randlora_
