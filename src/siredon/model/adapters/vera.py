"""`adapter: vera`: two shared random matrices, scaled by trained vectors, through PEFT.

Source: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", 2023, https://arxiv.org/abs/2310.11454.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_vera_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and trains two vectors for each of the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import VeraConfig

    return attach_peft_(model, section, VeraConfig)


ADAPTER = attach_vera_
