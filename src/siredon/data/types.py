"""The nouns of the data stage, one frozen type each.

Rows -> `Conversation` | `Text`, a `Preference` of two, or one that is `Judged` -> `Span`s -> `Sample` -> `Pack` ->
`Batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypeAlias, TypedDict

from siredon.config.sections.data import DatasetEntry

if TYPE_CHECKING:  # Preparing data takes no PyTorch, and naming formats no numpy
    import numpy as np
    import numpy.typing as npt
    import torch

#: A label that is no target, as in `torch.nn.functional.cross_entropy`.
IGNORE = -100

Row = Mapping[str, Any]
Ids: TypeAlias = "npt.NDArray[np.int32]"


class Span(NamedTuple):
    """A piece of rendered text, and whether its tokens are learned."""

    text: str
    learn: bool


@dataclass(frozen=True)
class Message:
    """One message.

    Args:
        properties: What the template gets: `role`, `content`, `tool_calls`, and what else the data has.
        role: Who speaks, in the template's words.
        content: The text of the message; empty where it only calls tools.
        learn: Whether it is learned.
        pieces: Ends of parts of `content`, in order, each with whether it is learned; none where all of it is as
            `learn` says.
    """

    properties: Mapping[str, Any]
    role: str
    content: str
    learn: bool
    pieces: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Messages that a chat template turns into text.

    Args:
        messages: The messages, in order.
        tools: Tools that the model may call, as JSON schemas; None for none.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True)
class Text:
    """Text that needs no template.

    Args:
        spans: The pieces, in order.
        add_bos: Begin with the tokenizer's first token, if it has one and uses it.
        add_eos: End with the stop token, learned.
        split: An over-long text is cut into windows, not handled as an over-long row.
    """

    spans: tuple[Span, ...]
    add_bos: bool = True
    add_eos: bool = True
    split: bool = False


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, one of which is better.

    Args:
        chosen: The prompt and the better answer, which alone is learned.
        rejected: The same prompt and the worse answer, marked in the same way.
        margin: By how much the better answer should be ahead, for a reward model.
    """

    chosen: Conversation | Text
    rejected: Conversation | Text
    margin: float = 0.0


@dataclass(frozen=True)
class Steps:
    """An answer in steps, each of which is right or wrong.

    Args:
        prompt: What is answered, with the token that begins a text.
        steps: The steps, in order.
        labels: Whether each is right; None where that is not learned.
        separator: What stands behind each step; its last token is where the step is judged.
        max_tokens: Longest answer, of which the rest is cut off; None for no limit.
    """

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    separator: str
    max_tokens: int | None = None


@dataclass(frozen=True)
class Judged:
    """An answer to a prompt, and whether it is good.

    Args:
        answer: The prompt and the answer, which alone is learned.
        is_desirable: Whether it is good.
    """

    answer: Conversation | Text
    is_desirable: bool


class RowError(ValueError):
    """One row that cannot be used; `prepare` adds the file and the row's number."""


class LeftOut(RowError):  # noqa: N818 - a row that is left out is no error
    """One row that is left out and counted, whatever `bad_rows` says: it can be read, and teaches nothing."""


@dataclass(frozen=True)
class Format:
    """A part of the shelf `formats`, or of `preference_formats`, whose rows are preferences, or of `judged_formats`.

    Args:
        read: A row and its data-set entry -> what it holds; a sample if it is tokens already.  Raises `RowError`.
        prompt: What a user types -> how this format asks it, for `inference`.
        uses_template: It reads conversations, which a chat template renders.
        ends: Every row ends with a stop token that is learned.
        variants: Formats behind a dot or a colon: `chatml` of `alpaca:chatml`, `load_qa` of `alpaca_chat.load_qa`.
        template: The chat template that it always uses; None for that of the data set.
        reads: Keys about rows that it reads in its data set's entry; None where nothing is said of them.
    """

    read: Callable[[Row, ReadOptions], Conversation | Text | Sample | Preference | Judged | Steps]
    prompt: Callable[[str], Conversation | Text]
    uses_template: bool = False
    ends: bool = True
    variants: Mapping[str, Format] = field(default_factory=dict)
    template: Template | None = None
    reads: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What a format needs to read a row.

    Args:
        entry: The data set's entry.
        train_on_inputs: Prompts are learned too.
        bos: The token that begins a text; empty if the tokenizer adds none.
        eos: The token that ends a text; empty if there is none.
        num_tokens: Tokens of the vocabulary.
        max_tokens: The longest sample.
    """

    entry: DatasetEntry
    train_on_inputs: bool
    bos: str = ""
    eos: str = ""
    num_tokens: int = 0
    max_tokens: int = 0


@dataclass(frozen=True)
class Template:
    """A part of the shelf `templates`: Jinja source, and where the published one stands."""

    source: str
    reference: str


@dataclass(frozen=True)
class Sample:
    """One row as the model sees it.

    Args:
        input_ids: Token ids, shape [T].
        labels: The id where it is learned, else `IGNORE`, shape [T].  The first is never learned: nothing predicts it.
            Of steps that are judged, 1 or 0 at the end of each.
        source: Number of its data set, from 0.
        reference: Log-probability of what is learned under the reference model; None where it is not known.
        is_desirable: Whether its answer is good; None where it is not judged.
        is_mismatched: Its answer is that to another prompt; see `data/match.py`.
        margin: Of either side of a pair: by how much the better one should be ahead, for a reward model.
    """

    input_ids: Ids
    labels: Ids
    source: int = 0
    reference: float | None = None
    is_desirable: bool | None = None
    is_mismatched: bool = False
    margin: float = 0.0

    @property
    def num_targets(self) -> int:
        """How many tokens are learned."""
        return int((self.labels != IGNORE).sum())


#: Samples that share one sequence, isolated from each other.
Pack = Sequence[Sample]


class Batch(TypedDict):
    """One forward pass, all int64: ids, labels and positions of shape [B, T]; tokens that are no padding, [B].

    `sources`, [B, T], says of which data set each token is; it is there only where it was asked for.  So are, for
    pairs, `samples`, [B, T], the number of the sample that each token is of, counted over the batch, S for padding;
    `packs`, [S], the number of the pack that each sample is of; `reference`, [S], fp32, its log-probability under the
    reference model, where that is known; and `places`, [S], the number of its pair in the optimizer step, where a loss
    matches the pairs of a step.  Of judged answers there are `desirable`, [S], bool, and `mismatched`, the batch of the
    mismatched answers, too; of pairs there is `margins`, [S], fp32, where any of them is not 0.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    num_tokens: torch.Tensor
    sources: NotRequired[torch.Tensor]
    samples: NotRequired[torch.Tensor]
    packs: NotRequired[torch.Tensor]
    reference: NotRequired[torch.Tensor]
    margins: NotRequired[torch.Tensor]
    places: NotRequired[torch.Tensor]
    desirable: NotRequired[torch.Tensor]
    mismatched: NotRequired[Batch]
