"""`adapter: qlora`: LoRA beside frozen weights that are held in 4 bits (`load_in_4bit: true`).

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

from siredon.model.adapters.lora import ADAPTER as ADAPTER
