"""`adapter: fourierft`: a few trained coefficients of the weights' Fourier transform, through PEFT.

Source: Gao et al., "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", 2024,
https://arxiv.org/abs/2405.03003.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_fourierft_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and adds the inverse transform of trained coefficients to the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import FourierFTConfig

    return attach_peft_(model, section, FourierFTConfig)


ADAPTER = attach_fourierft_
