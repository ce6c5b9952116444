"""`adapter: delora`: LoRA with direction and strength trained apart, through PEFT.

Source: Bini et al., "DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation", 2025,
https://arxiv.org/abs/2503.18225.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_delora_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and adds normalized low-rank products of trained strength to the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import DeloraConfig

    return attach_peft_(model, section, DeloraConfig)


ADAPTER = attach_delora_
