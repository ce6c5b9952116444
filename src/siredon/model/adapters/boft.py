"""`adapter: boft`: orthogonal fine-tuning by products of sparse rotations, through PEFT.

Source: Liu et al., "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", 2023,
https://arxiv.org/abs/2311.06243.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_boft_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and turns the weights of the chosen layers by trained butterfly rotations.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import BOFTConfig

    return attach_peft_(model, section, BOFTConfig)


ADAPTER = attach_boft_
