"""Embeddings and head, brought to the size of the vocabulary: rows added, cut off, or set to the average row.

`V` rows are the tokens that the model knows, `H` is the hidden size.  Everything here depends on the weights and
the seed alone, so whoever loads the base model again, to merge or to ask it, has the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from siredon.config.sections.embedding import EmbeddingSection
from siredon.errors import ModelError
from siredon.log import note, warn

_MULTIPLE = 32
#: Rows that are widened to fp64 at a time.
_CHUNK = 4096


def fit_embeddings_(model: Any, tokenizer: Any, section: EmbeddingSection, *, seed: int) -> None:
    """Brings embeddings and head to the vocabulary of the tokenizer, and starts the rows that nobody has trained.

    Args:
        model: A model of transformers; its config is kept in step.
        tokenizer: Every id of it gets a row.
        section: How many rows, and how new ones start.
        seed: Seed of new rows that start at random.

    Raises:
        ModelError: An id of `fix_untrained_tokens` that the tokenizer does not have.
    """
    num_known = model.get_input_embeddings().weight.shape[0]
    num_ids = count_ids(tokenizer)
    num_rows = choose_rows(num_known, num_ids, section)
    if num_rows != num_known:
        # The new rows are set below: transformers would draw them from the state of the moment.
        model.resize_token_embeddings(num_rows, mean_resizing=False)
        note(_describe(num_known, num_rows, section))
    tables = [table for _, table in list_tables(model)]
    _settle_rows_(tables, num_known, num_ids, section, Drawing(read_spread(model), seed))
    if section.fixed_ids:
        note(
            f"embeddings: {len(set(section.fixed_ids))} row(s) set to the average of the others "
            "(`fix_untrained_tokens`)"
        )


def fit_tables(
    tables: Sequence[torch.Tensor], num_ids: int, section: EmbeddingSection, drawing: Drawing
) -> list[torch.Tensor]:
    """What `fit_embeddings_` makes of the tables of a model, which are given to it by themselves.

    Args:
        tables: In the order of `list_tables`, as they are on disk; `(V, H)`, or `(V,)` for a bias.
        num_ids: Rows that the tokenizer needs.
        section: How many rows, and how new ones start.
        drawing: How rows are drawn that start at random.

    Raises:
        ModelError: An id of `fix_untrained_tokens` that the tokenizer does not have.
    """
    num_known = tables[0].shape[0]
    num_rows = choose_rows(num_known, num_ids, section)
    fitted = []
    for table in tables:
        rows = table.new_zeros(num_rows, *table.shape[1:])
        rows[:num_known] = table[:num_rows]
        fitted.append(rows)
    _settle_rows_(fitted, num_known, num_ids, section, drawing)
    return fitted


def changes_tables(num_known: int, num_ids: int, section: EmbeddingSection) -> bool:
    """Whether rows come, go, or begin anew."""
    return choose_rows(num_known, num_ids, section) != num_known or bool(section.fixed_ids)


@dataclass(frozen=True)
class Drawing:
    """How rows are drawn that start at random.

    Args:
        spread: Their standard deviation.
        seed: Seed.
    """

    spread: float
    seed: int


def read_spread(model: Any) -> float:
    """The standard deviation with which a model starts its own weights; where it has none, that of transformers."""
    settings = model.config.get_text_config().to_dict()
    return float(settings.get("initializer_range", settings.get("init_std", 0.02)))


def count_ids(tokenizer: Any) -> int:
    """One more than the highest id: a vocabulary can have holes, so this may be more than its tokens."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def choose_rows(num_known: int, num_ids: int, section: EmbeddingSection) -> int:
    """How many rows the embeddings get.

    Args:
        num_known: Rows of the weights, which are often more than the tokenizer has ids.
        num_ids: Rows that the tokenizer needs.
        section: Whether rows without a token are cut off, and whether rows are filled up.
    """
    num_rows = num_ids if section.shrink_embeddings else max(num_known, num_ids)
    return -(-num_rows // _MULTIPLE) * _MULTIPLE if section.resize_token_embeddings_to_32x else num_rows


def list_tables(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What has a row per token, by name: the embeddings; the head and its bias, unless they are the embeddings."""
    names = {id(module): name for name, module in model.named_modules()}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    yield f"{names[id(embeddings)]}.weight", embeddings.weight
    if head is not None and head.weight is not embeddings.weight:
        yield f"{names[id(head)]}.weight", head.weight
    if isinstance(head, torch.nn.Linear) and head.bias is not None:
        yield f"{names[id(head)]}.bias", head.bias


def average_row(weight: torch.Tensor, rows: range, *, leave_out: tuple[int, ...] = ()) -> torch.Tensor:
    """The average of `rows` without those to leave out: `weight[chosen].double().mean(0)`.

    Args:
        weight: `(V, H)` or, for the bias of a head, `(V,)`.
        rows: Which rows.
        leave_out: Those of `rows` that do not count.

    Returns:
        `(H,)` or a scalar, in fp64.
    """
    total = torch.zeros(weight.shape[1:], dtype=torch.float64, device=weight.device)
    for start in range(rows.start, rows.stop, _CHUNK):
        total += weight[start : min(start + _CHUNK, rows.stop)].double().sum(0)
    left = sorted({row for row in leave_out if row in rows})
    if left:
        total -= weight[left].double().sum(0)
    return total / (len(rows) - len(left))


def warn_of_frozen_tokens(base: Any, tokens: Mapping[str, int]) -> None:
    """Warns of new tokens whose rows stay as they begin, as an adapter leaves embeddings alone unless told otherwise.

    Args:
        base: The model of transformers, with its adapter in place: it says itself what of it is trained.
        tokens: New token -> id.
    """
    frozen = [token for token, index in tokens.items() if not _trains_row(base, index)]
    if not frozen:
        return
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    names = [
        name.rpartition(".")[2] for name, module in base.named_modules() if any(module is end for end in ends)
    ]
    warn(
        f"{len(frozen)} new token(s) ({', '.join(frozen[:3])}) have embeddings that nobody trains: "
        f"add `lora_modules_to_save: [{', '.join(dict.fromkeys(names))}]`, or, without an adapter, name them in "
        "`unfrozen_parameters`"
    )


def _trains_row(base: Any, index: int) -> bool:
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    table = base.get_input_embeddings()
    chosen = [layer for layer in table.modules() if isinstance(layer, TrainableTokensLayer)]
    if chosen:
        return any(index in ids for layer in chosen for ids in layer.token_indices.values())
    return any(parameter.requires_grad for parameter in table.parameters())


def _settle_rows_(
    tables: Sequence[torch.Tensor],
    num_known: int,
    num_ids: int,
    section: EmbeddingSection,
    drawing: Drawing,
) -> None:
    """Starts the rows beyond those of the weights, and those that the config names."""
    trained = range(min(num_known, num_ids))
    if tables[0].shape[0] > num_known:
        _start_rows_(tables, num_known, trained, section, drawing)
    if section.fixed_ids:
        _reset_rows_(tables, section.fixed_ids, trained, num_ids)


def _start_rows_(
    tables: Sequence[torch.Tensor], first: int, trained: range, section: EmbeddingSection, drawing: Drawing
) -> None:
    """Sets all rows from `first` on: to the average of the trained ones, or by a seed of their own."""
    generator = torch.Generator().manual_seed(drawing.seed)
    for weight in tables:
        with torch.no_grad():
            if section.mean_resizing_embeddings:
                weight[first:] = average_row(weight, trained).to(weight.dtype)
            elif weight.dim() == 1:
                weight[first:] = 0
            else:
                drawn = torch.empty(weight[first:].shape).normal_(0.0, drawing.spread, generator=generator)
                weight[first:] = drawn.to(weight)


def _reset_rows_(tables: Sequence[torch.Tensor], ids: tuple[int, ...], trained: range, num_ids: int) -> None:
    """Sets the rows of `ids` to the average of all other rows that a token of the trained model has.

    Raises:
        ModelError: An id without a token.
    """
    beyond = [index for index in ids if index >= num_ids]
    if beyond:
        raise ModelError(
            f"`fix_untrained_tokens`: {beyond[0]} is no token of this tokenizer, whose ids end at {num_ids - 1}",
            "Name ids of tokens.",
        )
    if len({index for index in ids if index in trained}) == len(trained):
        raise ModelError("`fix_untrained_tokens` names every token", "Leave out those that are trained.")
    for weight in tables:
        with torch.no_grad():
            weight[sorted(set(ids))] = average_row(weight, trained, leave_out=ids).to(weight.dtype)


def _describe(num_known: int, num_rows: int, section: EmbeddingSection) -> str:
    if num_rows < num_known:
        return f"embeddings: {num_known:,} -> {num_rows:,} rows (`shrink_embeddings`)"
    start = "at the average row" if section.mean_resizing_embeddings else "at random"
    return f"embeddings: {num_known:,} -> {num_rows:,} rows; new ones start {start}"
