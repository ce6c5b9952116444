"""`adapter: lokr`: Kronecker products of small matrices, through PEFT.

Source: Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation", 2023,
https://arxiv.org/abs/2309.14859.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_lokr_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and adds a Kronecker product to the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import LoKrConfig

    return attach_peft_(model, section, LoKrConfig)


ADAPTER = attach_lokr_
