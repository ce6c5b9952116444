"""`adapter: llama-adapter`: trained prompts inside the attention of the last blocks, through PEFT.

Source: Zhang et al., "LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention", 2023,
https://arxiv.org/abs/2303.16199.
"""

# ruff: noqa: N999 (the file name is the word of the YAML)
from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.model.attach import build_settings, wrap_


def attach_llama_adapter_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and puts prompts into the attention of its last blocks.

    How long they are and in how many blocks, `peft: {adapter_len: 10, adapter_layers: 30}` says.

    Raises:
        ModelError: The model is none that PEFT knows here, or has fewer blocks.
    """
    from peft import AdaptionPromptConfig

    return wrap_(model, build_settings(section, AdaptionPromptConfig, dict(section.peft)), section)


ADAPTER = attach_llama_adapter_
