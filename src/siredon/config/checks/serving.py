"""Settings of servers that need each other."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding, Rule
from siredon.config.sections.serving import ServingSection


def _check_reasoning(serving: ServingSection) -> Iterator[Finding]:
    """VLLM returns reasoning apart from the answer exactly if it is told how to recognize it.

    It has no switch beside the name of the parser, so `enable_reasoning` cannot say something else.
    """
    vllm = serving.vllm
    if vllm is None or vllm.enable_reasoning is None:
        return
    if vllm.enable_reasoning and vllm.reasoning_parser is None:
        yield Finding(
            "vllm.enable_reasoning",
            "`enable_reasoning: true` does not say how reasoning is recognized",
            "Name a parser of vLLM: `reasoning_parser: qwen3`, say.",
        )
    elif not vllm.enable_reasoning and vllm.reasoning_parser is not None:
        yield Finding(
            "vllm.enable_reasoning",
            f"`reasoning_parser: {vllm.reasoning_parser}` takes reasoning out of answers, "
            "and `enable_reasoning: false` says that it should stay",
            "Remove one of the two.",
        )


RULES = (
    Rule(
        "SD0850",
        _check_reasoning,
        wrong="vllm:\n  enable_reasoning: true",
        right="vllm:\n  enable_reasoning: true\n  reasoning_parser: qwen3",
    ),
)
