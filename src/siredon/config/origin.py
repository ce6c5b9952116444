"""Where a config came from: the texts that it was read from, for the record of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from siredon.config.document import Source


@dataclass(frozen=True)
class Origin:
    """Texts that a config was read from.  Two configs with the same values are equal, whatever their texts.

    Args:
        sources: The file, the files that it includes, and the settings of the command line.
    """

    sources: tuple[Source, ...] = field(default=(), compare=False)
