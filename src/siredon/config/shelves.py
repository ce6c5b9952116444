"""The shelves whose names the checks know too; each is named once."""

from __future__ import annotations

import re
from typing import Any

from siredon.registry import Shelf

FORMATS = Shelf("siredon.data.formats", "FORMAT", "datasets.type")
#: Formats of rows with a better and a worse answer.
PREFERENCE_FORMATS = Shelf("siredon.data.preference_formats", "FORMAT", "datasets.type")
#: Formats of rows with one answer, and whether it is good.
JUDGED_FORMATS = Shelf("siredon.data.judged_formats", "FORMAT", "datasets.type")
TEMPLATES = Shelf("siredon.data.templates", "TEMPLATE", "chat_template")
SCHEDULES = Shelf("siredon.train.schedules", "SCHEDULE", "lr_scheduler")
PAIR_LOSSES = Shelf("siredon.train.pair_losses", "LOSS", "dpo_loss_type")

_TEMPLATES = """
alpaca aya chatml cohere command_a command_a_rag command_a_tool_use deepseek_v2 deepseek_v3 exaone exaone4
falcon_h1 gemma gemma3 gemma3n gemma4 gemma4_unified jamba jinja llama3 llama3_2_vision llama4 llava metharme
mistral_v1 mistral_v2v3 mistral_v3_tekken mistral_v7_tekken nemotron_h phi_3 phi_35 pixtral qwen2_vl qwen3 qwen3_5
qwen_25
"""
_FORMATS = """
_synthetic alpaca alpaca_chat alpaca_instruct alpaca_w_system bradley_terry chat_template completion
concisechoice context_qa creative_acr ebft_chat_multiturn ebft_opencode ebft_pretrain ebft_reasoning
ebft_strided_structured explainchoice gpteacher input_output jeopardy llama2_chat messages metharme oasst
orcamini orpo pretrain pygmalion reflection stepwise_supervised summarizetldr user_defined
"""

#: Templates of the reference; one without a file on the shelf is not built yet.
KNOWN_TEMPLATES = tuple(_TEMPLATES.split())
#: Formats of the reference, by what stands before a dot or a colon.
KNOWN_FORMATS = tuple(_FORMATS.split())

#: Preference formats of the reference, by what stands before a dot.
KNOWN_PREFERENCE_FORMATS = (
    "bradley_terry",
    "chat_template",
    "chatml",
    "llama3",
    "passthrough",
    "user_defined",
    "zephyr",
)
#: Formats of the reference for judged answers, by what stands before a dot.
KNOWN_JUDGED_FORMATS = ("chat_template", "chatml", "llama3", "user_defined")


def split_type(name: str) -> tuple[str, str, str]:
    """A format, the mark behind it and the variant: `alpaca`, `:` and `chatml` of `alpaca:chatml`.

    Either mark may stand before a variant: a dot, or a colon.
    """
    head, mark, variant = re.fullmatch(r"([^.:]*)([.:]?)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return head, mark, variant


def variants_of(shelf: Shelf, name: str) -> tuple[str, ...]:
    """The variants of a format; one that is made of its entry has none."""
    part = shelf.load(name)
    return () if callable(part) else tuple(part.variants)


def find_variant(shelf: Shelf, written: str) -> Any:
    """The format of a name with or without a variant; None for none, and for one that is made of its entry."""
    head, mark, variant = split_type(written)
    part = shelf.load(head) if head in shelf.names() else None
    if part is None or callable(part):
        return None
    return part.variants.get(variant) if mark else part


def pair_types() -> tuple[str, ...]:
    """Every name of a format of pairs with its variant, such as `chatml.intel`."""
    shelf = PREFERENCE_FORMATS
    return tuple(f"{name}.{word}" for name in shelf.names() for word in variants_of(shelf, name))
