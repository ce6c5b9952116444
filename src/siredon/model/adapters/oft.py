"""`adapter: oft`: orthogonal fine-tuning, which turns the weights in blocks, through PEFT.

Source: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", 2023,
https://arxiv.org/abs/2306.07280.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_oft_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and turns the inputs of the chosen layers by trained block-diagonal rotations.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import OFTConfig

    return attach_peft_(model, section, OFTConfig)


ADAPTER = attach_oft_
