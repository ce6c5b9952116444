"""What became of the rows, counted; a run that would learn nothing is stopped before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from siredon.errors import DataError

TOO_LONG = "over sequence_len"
TOO_SHORT = "under min_sample_len"
NO_TARGETS = "nothing in them is learned"
#: Part of the rows that may be lost before that is a warning.
MAX_LOST = 0.05
_MAX_NAMES = 3


@dataclass(frozen=True)
class Counts:
    """What became of the rows of one data set.

    Args:
        source: The data set's path.
        num_rows: Rows read.
        num_samples: Samples made of them (more than rows where long texts are split).
        num_truncated: Rows that were cut to `sequence_len`.
        num_with_stop: Samples whose stop token is learned.
        num_tokens: Tokens of all samples.
        num_targets: Learned tokens of all samples.
        dropped: Why rows were dropped -> how many.
        examples: A few of the rows that could not be read, each with its place and reason.
        specials: Special tokens whose text stands in rows themselves -> in how many rows.
        group: Samples of a row that stay together: two of a pair.
    """

    source: str
    num_rows: int
    num_samples: int
    num_truncated: int
    num_with_stop: int
    num_tokens: int
    num_targets: int
    dropped: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    specials: dict[str, int] = field(default_factory=dict)
    group: int = 1

    @property
    def num_dropped(self) -> int:
        """Rows that were dropped."""
        return sum(self.dropped.values())

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        share = 100 * self.num_targets / max(self.num_tokens, 1)
        made = "" if self.num_samples == self.num_rows else f" -> {self.num_samples:,} samples"
        if self.group > 1:
            made = f" -> {self.num_samples // self.group:,} pairs"
        lines = [
            f"{self.source}: {self.num_rows:,} rows{made}, {self.num_tokens:,} tokens, "
            f"{self.num_targets:,} learned ({share:.0f} %)"
        ]
        facts = [(count, f"dropped: {reason}") for reason, count in self.dropped.items()]
        facts.append((self.num_truncated, "truncated to sequence_len"))
        for count, what in facts:
            if count:
                lines.append(
                    f"  {count:,} of {self.num_rows:,} rows {what} ({100 * count / self.num_rows:.1f} %)"
                )
        return lines

    def warnings(self) -> list[str]:
        """What a user should know before training."""
        found = []
        for count, what in ((self.num_dropped, "dropped"), (self.num_truncated, "truncated")):
            if count > MAX_LOST * self.num_rows:
                found.append(
                    f"{self.source}: {100 * count / self.num_rows:.0f} % of the rows were {what} "
                    f"({count:,} of {self.num_rows:,})"
                )
        if self.specials:
            names = ", ".join(repr(token) for token in sorted(self.specials)[:_MAX_NAMES])
            found.append(
                f"{self.source}: {sum(self.specials.values()):,} rows contain text of special tokens in their "
                f"content ({names}); the tokenizer reads it as those tokens"
            )
        return found

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return asdict(self)


def read_counts(values: object) -> Counts:
    """What `to_json` wrote.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(values, dict):
        raise TypeError("no counts")
    examples = values.pop("examples", ())
    return Counts(**values, examples=tuple(examples))


def check_counts(counts: Iterable[Counts], *, wants_stop: bool) -> None:
    """Stops a run that would learn nothing, or never learn to stop.

    Raises:
        DataError: A data set without samples, or without a single learned stop token.
    """
    for entry in counts:
        if entry.num_samples == 0:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in entry.dropped.items())
            raise DataError(
                f"{entry.source}: no row is left of {entry.num_rows:,} ({reasons})",
                "Raise `sequence_len`, set `excess_length_strategy: truncate`, or check `roles_to_train`.",
            )
        if wants_stop and entry.num_with_stop == 0 and entry.num_truncated:
            raise DataError(
                f"{entry.source}: all rows that could teach the model to stop were truncated "
                f"({entry.num_truncated:,} of {entry.num_rows:,})",
                "Raise `sequence_len`, or set `excess_length_strategy: drop`.",
            )
        if wants_stop and entry.num_with_stop == 0:
            raise DataError(
                f"{entry.source}: no stop token is ever learned, so the model would never end an answer",
                "Name the token that ends a turn as `eot_tokens`, or, if it is meant, set `train_on_eos: none`.",
            )
