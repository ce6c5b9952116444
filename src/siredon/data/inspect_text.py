"""An inspection on the terminal: tokens by colour, or learned ones in brackets where there are no colours."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from siredon.data.inspect import Inspection, SeenRow, SeenSample, SeenSource
from siredon.data.overview import TRAINING, Histogram, Side
from siredon.data.pieces import Piece

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: Around what is learned, where there are no colours.
OPEN, CLOSE = "\u27e6", "\u27e7"
_BAR_WIDTH = 40
_MOST_TOKENS = 500
_LAST_TOKENS = 100
_MOST_WINDOWS = 2
#: A word of so many columns may be broken.
_LONG_WORD = 20
_TITLE = "bold"
#: Two shades of each, in turn, so that each token can be told from the next.
_LEARNED = ("bold #ffffff on #1b6e3c", "bold #ffffff on #2a8a50")
_PLAIN = ("#8a8a8a", "#a8a8a8")
_SPECIAL = ("#b06fd8", "#c48be4")
_LEARNED_SPECIAL = ("bold #000000 on #f0c040", "bold #000000 on #d9a520")
#: What would steer the terminal, or turn the direction of the text.
_UNSAFE = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def show_safely(text: str) -> str:
    """Text in which nothing steers the terminal."""
    return _UNSAFE.sub(_name, text)


def _name(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)  # The pictures of control characters: of escape, of bell
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def print_inspection(inspection: Inspection, *, in_full: bool = False) -> None:
    """Writes rows and summary to stdout.

    Args:
        inspection: What is shown.
        in_full: Long rows are not cut.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    has_colours = console.color_system is not None and not console.no_color
    writer = _Writer(console, has_colours=has_colours, in_full=in_full)
    writer.legend()
    for row in inspection.rows:
        writer.row(row, inspection.sources[row.source - 1])
    writer.summary(inspection)


@dataclass(frozen=True)
class _Writer:
    console: Console
    has_colours: bool
    in_full: bool

    def print(self, text: str = "", style: str = "") -> None:
        """One line, as it is: no markup is read in it."""
        self.console.print(show_safely(text), style=style or None, markup=False)

    def title(self, text: str) -> None:
        """A line across the terminal."""
        shown = show_safely(text)
        line = "\u2500" * max(2, self.console.width - len(shown) - 5)
        self.console.print(f"\u2500\u2500 {shown} {line}", style=_TITLE, markup=False)

    def legend(self) -> None:
        """What the colours mean."""
        if not self.has_colours:
            self.print(f"{OPEN}learned{CLOSE}  not learned  \u23ce newline  \u00b7 blank at a border")
            return
        from rich.text import Text

        parts = (
            (" learned ", _LEARNED[0]),
            (" learned special token ", _LEARNED_SPECIAL[0]),
            ("not learned", _PLAIN[1]),
            ("special token", _SPECIAL[0]),
            ("\u23ce newline  \u00b7 blank  \u21e5 tab", "dim"),
        )
        self.console.print(Text("  ").join(Text(text, style) for text, style in parts))

    def row(self, row: SeenRow, source: SeenSource) -> None:
        """One row: where it stands, what becomes of it, its tokens."""
        self.print()
        self.title(f"{row.place} \u00b7 row {row.number:,} of {source.num_rows:,} in data set {row.source}")
        if row.reason:
            count = f" ({row.num_tokens:,} tokens)" if row.num_tokens else ""
            self.print(f"dropped: {row.reason}{count}", "bold red")
            for sample in row.samples:
                if sample.num_tokens < row.num_tokens:
                    self.print(f"its first {sample.num_tokens:,} tokens:", "dim")
        shown = row.samples if self.in_full else row.samples[:_MOST_WINDOWS]
        for number, sample in enumerate(shown, 1):
            if not row.reason:
                window = f"window {number} of {row.num_samples:,}: " if row.num_samples > 1 else ""
                window = f"{sample.name}: " if sample.name else window
                self.print(window + _describe(sample, row), "dim")
            self._tokens(sample.pieces)
        if row.num_samples > len(shown):
            self.print(f"[... {row.num_samples - len(shown):,} windows more ...]", "dim italic")

    def _tokens(self, pieces: Sequence[Piece]) -> None:
        for part, left_out in _shorten(pieces, in_full=self.in_full):
            if left_out:
                self.print(f"  [... {left_out:,} tokens more: --full shows them ...]", "dim italic")
            lines = _colour(part, self.console.width - 2) if self.has_colours else _bracket(part)
            for line in lines:
                self.console.print("  ", line, sep="", markup=False)

    def summary(self, inspection: Inspection) -> None:
        """Everything in numbers."""
        self.print()
        self.title("summary")
        for source in inspection.sources:
            self._source(source)
        for side in inspection.sides:
            self._side(side)
        if inspection.roles:
            self.print("learned, by role, in the rows above:")
            width = max(len(share.role) for share in inspection.roles)
            for share in inspection.roles:
                percent = 100 * share.num_targets / max(1, share.num_tokens)
                counts = f"{share.num_targets:>6,} of {share.num_tokens:>6,} tokens"
                self.print(f"  {share.role:<{width}}  {counts}  {percent:3.0f} %")
        for line in inspection.warnings:
            self.print(f"warning: {line}", "yellow")
        if inspection.problem:
            self.print(f"training would stop: {inspection.problem}", "bold red")

    def _source(self, source: SeenSource) -> None:
        head = f"data set {source.number}, {source.side}: "
        if source.counts is None:
            self.print(f"{head}{source.name}: {source.num_rows:,} rows")
            return
        first, *_ = source.counts.lines()
        self.print(f"{head}{first}")
        if source.counts.num_truncated:
            self.print(f"  {source.counts.num_truncated:,} rows truncated to sequence_len", "yellow")
        for dropped in source.dropped:
            part = 100 * dropped.num_rows / source.num_rows
            self.print(
                f"  {dropped.num_rows:,} of {source.num_rows:,} rows ({part:.1f} %) dropped: {dropped.reason}",
                "yellow",
            )
            for example in dropped.examples:
                self.print(f"    such as {example}", "dim")

    def _side(self, side: Side) -> None:
        self.print(
            f"{side.name}: {side.num_samples:,} {side.unit}, {side.num_tokens:,} tokens, longest {side.longest:,}"
        )
        if side.name == TRAINING:
            self._bars("tokens", side.lengths)
        if side.filling is not None:
            packs = side.filling
            self.print(
                f"{side.name} packs: {packs.num_packs:,} of {packs.capacity:,} tokens, {100 * packs.part:.1f} % full"
            )
            if side.name == TRAINING:
                self._bars("% full", packs.percent)

    def _bars(self, unit: str, histogram: Histogram) -> None:
        most = max(1, *histogram.counts)
        ends = [f"{end:,}" for end in histogram.edges]
        width = max(len(end) for end in ends)
        for start, end, count in zip(ends, ends[1:], histogram.counts, strict=False):
            bar = "\u2588" * -(-_BAR_WIDTH * count // most)
            self.console.print(
                f"  {start:>{width}} - {end:>{width}} {unit}  [cyan]{bar}[/]{' ' if bar else ''}{count:,}"
            )


def _describe(sample: SeenSample, row: SeenRow) -> str:
    share = 100 * sample.num_targets / max(1, sample.num_tokens)
    facts = f"{sample.num_tokens:,} tokens, {sample.num_targets:,} learned ({share:.0f} %)"
    if row.is_cut:
        facts += f", truncated from {row.num_tokens:,}"
    return f"{facts} \u00b7 {sample.use}" if sample.use else facts


def _shorten(pieces: Sequence[Piece], *, in_full: bool) -> Iterator[tuple[Sequence[Piece], int]]:
    """Parts that are shown, each with how many tokens before it are not."""
    if in_full or len(pieces) <= _MOST_TOKENS:
        yield pieces, 0
        return
    first = _MOST_TOKENS - _LAST_TOKENS
    yield pieces[:first], 0
    yield pieces[-_LAST_TOKENS:], sum(len(piece.ids) for piece in pieces[first:-_LAST_TOKENS])


def _colour(pieces: Sequence[Piece], width: int) -> Iterator[Text]:
    """Lines of coloured tokens, broken between words where that is possible, else between tokens."""
    from rich.text import Text

    line, word = Text(), Text()
    for index, piece in enumerate(pieces):
        if piece.text[:1] == " " or piece.special or word.cell_len >= _LONG_WORD:
            line.append_text(word)
            word = Text()
        for part in _mark_blanks(piece.text).splitlines(keepends=True):
            word.append(part.rstrip("\n"), _shade(piece, index))
            if line.cell_len and line.cell_len + word.cell_len > width:
                yield line
                line = Text()
            if part.endswith("\n"):
                yield line.append_text(word)
                line, word = Text(), Text()
    if line or word:
        yield line.append_text(word)


def _mark_blanks(text: str) -> str:
    return show_safely(text.replace(" ", "\u00b7").replace("\t", "\u21e5").replace("\n", "\u23ce\n"))


def _shade(piece: Piece, index: int) -> str:
    """The style of a token, in one of its two shades."""
    if piece.special:
        shades = _LEARNED_SPECIAL if piece.learned else _SPECIAL
    else:
        shades = _LEARNED if piece.learned else _PLAIN
    return shades[index % 2]


def _bracket(pieces: Sequence[Piece]) -> Iterator[str]:
    """Lines of text with learned parts in brackets; a blank next to one is made visible."""
    parts = []
    for learned, run in groupby(pieces, key=lambda piece: piece.learned):
        text = "".join(piece.text for piece in run)
        core = text.strip(" ")
        start = text.find(core) if core else len(text)
        text = "\u00b7" * start + core + "\u00b7" * (len(text) - start - len(core))
        parts.append(f"{OPEN}{text}{CLOSE}" if learned else text)
    text = show_safely("".join(parts)).replace("\n", "\u23ce\n")
    yield from text.removesuffix("\n").split("\n")
