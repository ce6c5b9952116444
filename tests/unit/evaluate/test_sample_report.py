"""Pairs before and after a training, as files and as tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from siredon.evaluate.pair_samples import MovedPair, PairSample
from siredon.evaluate.sample_report import lay_out_samples, shorten_end, shorten_start, write_samples

LONG = "x" * 3000 + " the end"


def moved(row: int, change: float, text: str = "Yes.") -> MovedPair:
    def at(margin: float) -> PairSample:
        measures = {"logps/chosen": margin - 5, "logps/rejected": -5.0, "logps/margins": margin}
        return PairSample(
            "validation",
            "pairs.jsonl",
            row,
            f"<s>{text}",
            text,
            text,
            "No.",
            {**measures, "rewards/margins": 0.0},
        )

    return MovedPair(at(1.0), at(1.0 + change))


def render(pairs: list[MovedPair], room: int = 40) -> list[str]:
    stream = io.StringIO()
    for table in lay_out_samples(pairs, room):
        Console(file=stream, width=200, markup=False, highlight=False).print(table)
    return stream.getvalue().splitlines()


def test_those_that_moved_most_are_shown_in_each_direction():
    changes = [0.5, -4.0, 2.0, 0.0, -1.0, 3.0, -2.0, 1.0, -3.0]
    lines = render([moved(row, change) for row, change in enumerate(changes)])
    titles = [line.partition("  ")[0] for line in lines if line.startswith("validation")]
    assert titles == ["validation: margin rose most, of 9 pairs", "validation: margin fell most, of 9 pairs"]
    heads = [line.split() for line in lines if line[:1].isdigit()]
    assert [(head[0], head[-1]) for head in heads] == [
        ("5:", "+3.0000"),
        ("2:", "+2.0000"),
        ("7:", "+1.0000"),
        ("1:", "-4.0000"),
        ("8:", "-3.0000"),
        ("6:", "-2.0000"),
    ]
    first = lines.index(next(line for line in lines if line.startswith("5:")))
    assert lines[first].split() == ["5:", "Yes.", "1.0000", "4.0000", "+3.0000"]
    assert lines[first + 1].split() == ["chosen:", "Yes.", "-4.0000", "-1.0000", "+3.0000"]
    assert lines[first + 2].split() == ["rejected:", "No.", "-5.0000", "-5.0000"]
    assert not [line for line in render([moved(0, 1.0)]) if "fell" in line]
    assert render([moved(0, 0.0)]) == []


def test_long_texts_and_those_that_steer_a_terminal_fit_a_line():
    lines = render([moved(0, 1.0, LONG), moved(1, 2.0, "a\x1b[31m\nb [bold]c")], room=40)
    texts = [line[:40] for line in lines]
    assert any(text.startswith("0: …x") and text.endswith("x the end") for text in texts)
    assert any(text.startswith("  chosen: x") and text.endswith("x…") for text in texts)
    assert any(text.startswith("1: a\u241b[31m b [bold]c") for text in texts)
    assert len({len(line) for line in lines}) == 1


def test_a_cut_text_has_an_ellipsis_and_the_file_for_programs_has_all(tmp_path: Path):
    for most in (2, 5, 8):
        assert len(shorten_end("0123456789", most)) == len(shorten_start("0123456789", most)) == most
    assert (shorten_end("0123456789", 4), shorten_start("0123456789", 4)) == ("012…", "…789")
    assert shorten_end("0123", 4) == shorten_start("0123", 4) == "0123"
    write_samples([moved(0, 1.0, LONG), moved(1, 1.0, "```\ncode\n```")], tmp_path)
    text = (tmp_path / "pair_samples.md").read_text()
    assert LONG not in text
    assert "x the end\n```" in text
    assert "x…\n```" in text
    assert "````text\n```\ncode\n```\n````" in text
    rows = [json.loads(line) for line in (tmp_path / "pair_samples.jsonl").read_text().splitlines()]
    assert rows[0]["chosen"] == LONG
    assert rows[0]["tuned"]["logps/margins"] - rows[0]["start"]["logps/margins"] == rows[0]["change"] == 1.0
    write_samples([], tmp_path)
    assert not [*tmp_path.iterdir()]
