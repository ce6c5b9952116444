"""`adapter: hra`: orthogonal fine-tuning by Householder reflections, through PEFT.

Source: Yuan et al., "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection
Adaptation", 2024, https://arxiv.org/abs/2405.17484.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_hra_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and reflects the inputs of the chosen layers along trained directions.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import HRAConfig

    return attach_peft_(model, section, HRAConfig)


ADAPTER = attach_hra_
