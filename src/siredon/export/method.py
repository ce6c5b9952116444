"""What a part of the shelf `quantizers/` is, and the layers of a model that it rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.sections.quantization import PtqOptions, QatOptions

Options = PtqOptions | QatOptions


@dataclass(frozen=True)
class Layers:
    """What there is to round.

    Args:
        linear: Name of a linear layer -> its inputs; the head is none of them.
        tables: Name of an embedding -> its width.
        embedding: Name of the embedding of the tokens.
        head: Name of the head; None for a model without one.
        is_tied: Whether the head has the weight of the embedding.
    """

    linear: dict[str, int]
    tables: dict[str, int]
    embedding: str
    head: str | None
    is_tied: bool

    @classmethod
    def of(cls, model: Any) -> Layers:
        """Those of a model of transformers, with or without weights."""
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        named = dict(model.named_modules())
        return cls(
            {
                name: module.in_features
                for name, module in named.items()
                if isinstance(module, torch.nn.Linear) and module is not head
            },
            {
                name: module.embedding_dim
                for name, module in named.items()
                if isinstance(module, torch.nn.Embedding)
            },
            next(name for name, module in named.items() if module is table),
            next((name for name, module in named.items() if head is not None and module is head), None),
            head is not None and head.weight is table.weight,
        )


@dataclass(frozen=True)
class Device:
    """An NVIDIA GPU that a method needs.

    Args:
        capability: Its generation, at least, such as (8, 9).
        example: GPUs of that generation, for people.
        instead: A method that works without.
    """

    capability: tuple[int, int]
    example: str
    instead: str


@dataclass(frozen=True)
class Recipe:
    """What llm-compressor is asked.

    Args:
        modifier: Its class.
        build: Layers and options -> the arguments of that class.
        takes_group: Whether it can be said how many weights share a scale.
    """

    modifier: str
    build: Callable[[Layers, Options], dict[str, Any]]
    takes_group: bool = False


@dataclass(frozen=True)
class Method:
    """A way of writing weights in few bits.

    Args:
        package: Who holds such weights, as `quant_method` of a `config.json` has it: `torchao`, `bitsandbytes` or
            `compressed-tensors`.
        describe: Options -> what becomes of the weights, for people.
        build: Layers, options, and format of what stays whole -> quantization config of transformers; None beside
            `recipe`.
        formats: Those of weights and inputs, as `quantization:` says them; None where that has no words for it.
        device: What it needs to compute; None where any device will do.
        recipe: How llm-compressor rounds by rows of data; None where no data is needed.
        mixes_tokens: Whether inputs are rounded by what all tokens of a batch hold, so that rows in one sequence would
            change each other's logits.
    """

    package: str
    describe: Callable[[Options], str]
    build: Callable[[Layers, Options, torch.dtype], Any] | None = None
    formats: tuple[str, str | None] | None = None
    device: Device | None = None
    recipe: Recipe | None = None
    mixes_tokens: bool = False

    @property
    def maker(self) -> str:
        """Who rounds."""
        return self.package if self.recipe is None else "llm-compressor"


@dataclass(frozen=True)
class Refusal:
    """A method that is known and not there.

    Args:
        why: What it lacks, as the end of a sentence.
        fix: What to use instead.
    """

    why: str
    fix: str
