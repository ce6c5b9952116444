"""What became of the rows, counted; a run that would learn nothing is stopped before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from siredon.errors import DataError


@dataclass(frozen=True)
class Counts:
    """What became of the rows of one data set.

    Args:
        source: The data set's path.
        num_rows: Rows read.
        num_samples: Samples made of them (more than rows where long texts are split).
        num_too_long: Rows over `sequence_len` that were dropped.
        num_truncated: Rows over `sequence_len` that were cut.
        num_without_targets: Rows dropped because nothing in them is learned.
        num_with_stop: Samples whose stop token is learned.
        num_tokens: Tokens of all samples.
        num_targets: Learned tokens of all samples.
    """

    source: str
    num_rows: int
    num_samples: int
    num_too_long: int
    num_truncated: int
    num_without_targets: int
    num_with_stop: int
    num_tokens: int
    num_targets: int

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        share = 100 * self.num_targets / max(self.num_tokens, 1)
        made = "" if self.num_samples == self.num_rows else f" -> {self.num_samples:,} samples"
        lines = [
            f"{self.source}: {self.num_rows:,} rows{made}, {self.num_tokens:,} tokens, "
            f"{self.num_targets:,} learned ({share:.0f} %)"
        ]
        for count, what in (
            (self.num_too_long, "dropped: over sequence_len"),
            (self.num_truncated, "truncated to sequence_len"),
            (self.num_without_targets, "dropped: nothing in them is learned"),
        ):
            if count:
                lines.append(
                    f"  {count:,} of {self.num_rows:,} rows {what} ({100 * count / self.num_rows:.1f} %)"
                )
        return lines

    def to_json(self) -> dict[str, str | int]:
        """For programs."""
        return asdict(self)


def check_counts(counts: Iterable[Counts], *, wants_stop: bool) -> None:
    """Stops a run that would learn nothing, or never learn to stop.

    Raises:
        DataError: A data set without samples, or without a single learned stop token.
    """
    for entry in counts:
        if entry.num_samples == 0:
            raise DataError(
                f"{entry.source}: no row is left of {entry.num_rows:,} "
                f"({entry.num_too_long:,} over sequence_len, {entry.num_without_targets:,} with nothing to learn)",
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
                "Name the token that ends a turn as `special_tokens: {eos_token: ...}`, or, if it is meant, "
                "set `train_on_eos: none`.",
            )
