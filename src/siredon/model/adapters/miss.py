"""`adapter: miss`: one shared matrix per layer, spread over its inputs, through PEFT.

Source: Kang and Yin, "Balancing LoRA Performance and Efficiency with Simple Shard Sharing", 2024,
https://arxiv.org/abs/2409.15371.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import attach_peft_


def attach_miss_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and adds a trained matrix, shared by shards of the input, to the chosen layers.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import MissConfig

    return attach_peft_(model, section, MissConfig)


ADAPTER = attach_miss_
