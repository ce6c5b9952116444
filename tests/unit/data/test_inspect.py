"""What `inspect` shows is what training gets: every token of it, with its label, its role and its place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SHARED_DATA, build_tokenizer
from tests.unit.data.samples import samples_of

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.inspect import Choice, Inspection, SeenRow, inspect_data
from siredon.data.inspect_html import build_page
from siredon.data.inspect_text import print_inspection, show_safely
from siredon.data.pieces import PieceReader
from siredon.data.prepare import Preparation, prepare_data
from siredon.data.types import IGNORE, Sample
from siredon.errors import DataError

Rows = list[dict[str, Any]]
NASTY = "<script>alert(1)</script> & \"'\u2028 \x1b[31m 你好 😀 </script>"


def talk(question: str, answer: str, system: str = "") -> dict[str, Any]:
    before = [{"role": "system", "content": system}] if system else []
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": before + turns}


def write_rows(path: Path, rows: Rows, type_: str = "chat_template") -> dict[str, Any]:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return {"path": str(path), "type": type_}


def preparation_of(tokenizer: Any, tmp_path: Path, **keys: Any) -> Preparation:
    values = {"dataset_prepared_path": str(tmp_path / "prepared"), "sequence_len": 128, **keys}
    return Preparation(tokenizer, TokenizerSection(), DataSection.model_validate(values), 7)


def look(
    tokenizer: Any, tmp_path: Path, choice: Choice | None = None, *, packs: bool = False, **keys: Any
) -> Inspection:
    packing = PackingSection.model_validate({"sample_packing": packs})
    return inspect_data(preparation_of(tokenizer, tmp_path, **keys), packing, choice or Choice())


def text_of(row: SeenRow) -> str:
    return "".join(piece.text for sample in row.samples for piece in sample.pieces)


def learned_text(row: SeenRow) -> str:
    return "".join(piece.text for sample in row.samples for piece in sample.pieces if piece.learned)


# Tokens


@pytest.mark.parametrize(
    "text", ["plain words", NASTY, " leading", "a\n\n\tb  c ", "e\u0301 \ufffd x", "🎉🎉"]
)
def test_pieces_have_every_token_and_are_the_text(tokenizer: Any, text: str):
    ids = np.array([*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id], np.int32)
    pieces = list(PieceReader(tokenizer).read(Sample(ids, np.full_like(ids, IGNORE))))
    assert [token_id for piece in pieces for token_id in piece.ids] == ids.tolist()
    assert "".join(piece.text for piece in pieces) == text + "<|im_end|>"
    assert [piece.special for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_tokenizer_that_drops_the_first_blank_keeps_it_here():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "\u2581a": 1, "\u2581bc": 2, "d": 3, "<0xC3>": 4, "<0xA9>": 5}
    built = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    reader = PieceReader(PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>"))
    ids = np.array([2, 3, 2, 4, 5], np.int32)
    pieces = list(reader.read(Sample(ids, np.full_like(ids, IGNORE))))
    assert [piece.text for piece in pieces] == [" bc", "d", " bc", "é"]
    assert pieces[-1].ids == (4, 5)


# Rows


def test_every_row_that_is_shown_as_trained_is_a_sample_of_training(tokenizer: Any, tmp_path: Path):
    rows = [talk(f"Say {i}", f"number {i}") for i in range(12)]
    entry = write_rows(tmp_path / "r.jsonl", rows)
    seen = look(tokenizer, tmp_path, Choice(num_rows=12), packs=True, datasets=[entry])
    preparation = preparation_of(tokenizer, tmp_path, datasets=[entry])
    train = prepare_data(preparation, PackingSection.model_validate({"sample_packing": True})).train
    assert len(train) > 1
    assert len(seen.rows) == 12
    for row in seen.rows:
        (sample,) = row.samples
        pack = int(re.fullmatch(r"training, pack (\d+)", sample.use)[1])
        ids = [token_id for piece in sample.pieces for token_id in piece.ids]
        labels = [number if piece.learned else IGNORE for piece in sample.pieces for number in piece.ids]
        assert (ids, labels) in [(s.input_ids.tolist(), s.labels.tolist()) for s in train[pack - 1]]
        assert learned_text(row) == f"number {row.number - 1}<|im_end|>"


def test_a_row_that_is_held_out_is_shown_as_validation(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk(f"Say {i}", "x") for i in range(10)])
    seen = look(tokenizer, tmp_path, Choice(num_rows=10), datasets=[entry], val_set_size=3)
    assert sorted(row.samples[0].use for row in seen.rows) == ["training"] * 7 + ["validation"] * 3
    assert [(side.name, side.num_samples) for side in seen.sides] == [("training", 7), ("validation", 3)]


def test_data_sets_of_validation_are_looked_at_too(tokenizer: Any, tmp_path: Path):
    ours = write_rows(tmp_path / "a.jsonl", [talk("a", "b"), talk("c", "d")])
    theirs = write_rows(tmp_path / "b.jsonl", [talk("e", "f"), talk("c", "d")])
    keys = {"datasets": [ours], "test_datasets": [theirs]}
    seen = look(tokenizer, tmp_path, Choice(num_rows=2, source=2), **keys)
    assert [source.side for source in seen.sources] == ["training", "validation"]
    assert [row.samples[0].use for row in seen.rows] == ["validation", "training and validation"]


def test_equal_samples_are_counted_where_they_are_used(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk("a", "b")] * 3)
    assert look(tokenizer, tmp_path, datasets=[entry]).rows[0].samples[0].use == "training (3 equal samples)"
    once = look(tokenizer, tmp_path, datasets=[entry], dataset_exact_deduplication=True)
    assert once.rows[0].samples[0].use == "training"


def test_rows_are_shared_out_over_the_data_sets(tokenizer: Any, tmp_path: Path):
    small = write_rows(tmp_path / "a.jsonl", [talk("a", "b")])
    large = write_rows(tmp_path / "b.jsonl", [talk(f"{i}", "x") for i in range(50)])
    keys = {"datasets": [small, large]}

    def chosen(choice: Choice) -> list[tuple[int, int]]:
        return [(row.source, row.number) for row in look(tokenizer, tmp_path, choice, **keys).rows]

    assert chosen(Choice(num_rows=5)) == [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4)]
    assert chosen(Choice(num_rows=1)) == [(1, 1)]
    assert chosen(Choice(num_rows=1_000)) == [(1, 1), *((2, i) for i in range(1, 51))]
    assert chosen(Choice(source=2, row=50)) == [(2, 50)]
    drawn = chosen(Choice(num_rows=4, source=2, seed=1))
    assert (
        drawn == chosen(Choice(num_rows=4, source=2, seed=1)) != chosen(Choice(num_rows=4, source=2, seed=2))
    )
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(
    ("choice", "message"),
    [(Choice(source=3), "no data set 3.*Choose one of: 1 "), (Choice(row=2), r"no row 2.*There are 1 rows")],
)
def test_a_row_that_is_not_there_is_an_error(tokenizer: Any, tmp_path: Path, choice: Choice, message: str):
    entry = write_rows(tmp_path / "a.jsonl", [talk("a", "b")])
    with pytest.raises(DataError) as error:
        look(tokenizer, tmp_path, choice, datasets=[entry])
    assert re.search(message, str(error.value), re.DOTALL)


def test_a_long_text_shows_its_windows(tokenizer: Any, tmp_path: Path):
    text = " ".join(str(number) for number in range(900))
    entry = write_rows(tmp_path / "t.jsonl", [{"text": text}], "completion")
    (row,) = look(tokenizer, tmp_path, datasets=[entry]).rows
    assert row.num_samples > len(row.samples) == 8
    assert text.startswith(text_of(row))
    assert {sample.use for sample in row.samples} == {"training"}


# What was dropped


def test_dropped_rows_are_counted_with_reasons_and_examples(tokenizer: Any, tmp_path: Path):
    rows = [talk("a", "b"), talk("word " * 200, "c"), {"messages": "no list"}, talk("d", "e " * 200)]
    entry = write_rows(tmp_path / "r.jsonl", rows)
    seen = look(tokenizer, tmp_path, Choice(num_rows=4), datasets=[entry], bad_rows="drop")
    (source,) = seen.sources
    found = {dropped.reason: dropped for dropped in source.dropped}
    long = found["over sequence_len"]
    assert long.num_rows == 2
    assert [re.sub(r"\d+ tokens", "N tokens", text) for text in long.examples] == [
        f"{entry['path']}: row 2: N tokens",
        f"{entry['path']}: row 4: N tokens",
    ]
    (bad,) = (dropped for reason, dropped in found.items() if reason != "over sequence_len")
    assert bad.num_rows == 1
    assert "row 3" in bad.examples[0]
    assert [bool(row.reason) for row in seen.rows] == [False, True, True, True]
    assert seen.rows[1].num_tokens > 128 == seen.rows[1].samples[0].num_tokens
    assert seen.rows[1].samples[0].use == ""
    assert seen.rows[2].samples == ()


def test_truncated_rows_show_what_is_left(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk("a", "e " * 200), talk("a", "b")])
    keys = {"datasets": [entry], "excess_length_strategy": "truncate"}
    row = look(tokenizer, tmp_path, **keys).rows[0]
    assert row.is_cut
    assert (row.num_tokens > 128, row.samples[0].num_tokens, row.samples[0].use) == (True, 128, "training")


def test_rows_are_shown_with_the_problem_where_training_would_stop(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk("word " * 200, "c")] * 2)
    seen = look(tokenizer, tmp_path, datasets=[entry])
    assert "no row is left of 2" in seen.problem
    assert seen.sides == ()
    assert [row.reason for row in seen.rows] == ["over sequence_len"] * 2
    bad = write_rows(tmp_path / "b.jsonl", [talk("a", "b"), {"messages": 3}])
    seen = look(tokenizer, tmp_path, datasets=[bad])
    assert "row 2" in seen.problem
    assert [bool(row.reason) for row in seen.rows] == [False, True]


def test_a_source_that_cannot_be_read_is_an_error(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        look(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "no.jsonl"), "type": "alpaca"}])


# Numbers


def test_the_histograms_count_every_sample_and_pack(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk("a", "b" * (1 + i % 9)) for i in range(40)])
    seen = look(tokenizer, tmp_path, packs=True, datasets=[entry])
    (side,) = seen.sides
    preparation = preparation_of(tokenizer, tmp_path, datasets=[entry])
    train = prepare_data(preparation, PackingSection.model_validate({"sample_packing": True})).train
    lengths = [len(sample.input_ids) for sample in samples_of(train)]
    bars = list(zip(side.lengths.edges, side.lengths.edges[1:], side.lengths.counts, strict=False))
    assert [count for _, _, count in bars] == [sum(a < n <= b for n in lengths) for a, b, _ in bars]
    assert (side.num_samples, side.num_tokens, side.longest) == (40, sum(lengths), max(lengths))
    assert side.filling is not None
    assert sum(side.filling.percent.counts) == side.filling.num_packs == len(train)
    assert side.filling.part == pytest.approx(sum(lengths) / (128 * len(train)))
    assert look(tokenizer, tmp_path, datasets=[entry]).sides[0].filling is None


def test_roles_have_their_own_words(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [talk("Who?", "Me.", "Be brief.")])
    seen = look(tokenizer, tmp_path, datasets=[entry])
    words: dict[str, str] = {}
    for piece in seen.rows[0].samples[0].pieces:
        words[piece.role] = words.get(piece.role, "") + piece.text
    assert words == {
        "system": "<|im_start|>system\nBe brief.<|im_end|>\n",
        "user": "<|im_start|>user\nWho?<|im_end|>\n",
        "assistant": "<|im_start|>assistant\nMe.<|im_end|>\n",
    }
    shares = {share.role: share for share in seen.roles}
    assert shares["system"].num_targets == shares["user"].num_targets == 0
    assert shares["assistant"].num_targets == seen.rows[0].samples[0].num_targets > 0
    assert sum(share.num_tokens for share in seen.roles) == seen.rows[0].num_tokens


def test_what_the_template_says_by_itself_is_its_own(tmp_path: Path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{{ '<|im_start|>system\nI am a default.<|im_end|>\n' }}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    entry = write_rows(tmp_path / "r.jsonl", [talk("Who?", "Me.")])
    (row,) = look(tokenizer, tmp_path, datasets=[entry]).rows
    words = "".join(piece.text for piece in row.samples[0].pieces if piece.role == "template")
    assert words == "<|im_start|>system\nI am a default.<|im_end|>\n"


def test_text_without_roles_has_a_prompt_and_a_response(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "r.jsonl", [{"instruction": "Add", "output": "3"}], "alpaca")
    seen = look(tokenizer, tmp_path, datasets=[entry])
    assert [(s.role, s.num_targets == s.num_tokens) for s in seen.roles] == [
        ("prompt", False),
        ("response", True),
    ]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared data")
def test_tools_have_a_role_of_their_own_in_real_rows(tokenizer: Any, tmp_path: Path):
    entry = {
        "path": str(SHARED_DATA / "reason_tool_use_demo_50.jsonl"),
        "type": "chat_template",
        "chat_template": "qwen3",
    }
    seen = look(tokenizer, tmp_path, Choice(num_rows=50), datasets=[entry], sequence_len=8192)
    shares = {share.role: share.num_targets for share in seen.roles}
    assert set(shares) == {"system", "user", "assistant", "tool"}
    assert shares["assistant"] == sum(row.samples[0].num_targets for row in seen.rows if not row.reason)


# The terminal


def test_learned_text_is_in_brackets_where_there_are_no_colours(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entry = write_rows(tmp_path / "r.jsonl", [talk("Who?", "It is\nme.")])
    print_inspection(look(tokenizer, tmp_path, datasets=[entry]))
    shown = capsys.readouterr().out
    assert "  ⟦It is⏎\n  me.<|im_end|>⟧⏎\n" in shown
    assert "1 row" in shown
    assert "\x1b" not in shown


def test_colours_tell_what_is_learned(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    entry = write_rows(tmp_path / "r.jsonl", [talk("Who?", "It is me.")])
    seen = look(tokenizer, tmp_path, datasets=[entry])
    print_inspection(seen)
    shown = capsys.readouterr().out
    assert "⟦" not in shown
    assert "48;2;27;110;60" in shown or "48;2;42;138;80" in shown
    assert re.search(r"48;2;(240;192;64|217;165;32)m<\|im_end\|>", shown)
    monkeypatch.setenv("NO_COLOR", "1")
    print_inspection(seen)
    assert "⟦It is me.<|im_end|>⟧" in capsys.readouterr().out


def test_lines_are_no_wider_than_the_terminal(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "60", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    entry = write_rows(tmp_path / "r.jsonl", [talk("many words of a question " * 3, "x" * 150)])
    seen = look(tokenizer, tmp_path, datasets=[entry], sequence_len=500)
    print_inspection(seen)
    plain = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    rows = plain.partition(" summary ")[0].splitlines()
    tokens = [line for line in rows if line.startswith("  ")]
    assert len(tokens) > 4
    assert max(len(line) for line in tokens) <= 60
    assert "".join(line[2:] for line in tokens).count("x" * 150) == 1


def test_nothing_in_the_data_steers_the_terminal(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entry = write_rows(tmp_path / "r.jsonl", [talk(f"{NASTY} \x07\x9b\u202e [bold]", "[/] [red]x")])
    seen = look(tokenizer, tmp_path, datasets=[entry])
    print_inspection(replace(seen, warnings=("a \x1b[2J row",)))
    shown = capsys.readouterr().out
    assert "warning: a ␛[2J row" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", shown)
    assert "␛[31m 你好 😀" in shown
    assert "␇<U+009B><U+202E> [bold]" in shown
    assert "⟦[/] [red]x<|im_end|>⟧" in shown
    assert show_safely("a\tb\n") == "a\tb\n"


def test_long_rows_are_cut_in_the_middle_unless_asked_for(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entry = write_rows(tmp_path / "r.jsonl", [talk("word " * 500, "the end")])
    seen = look(tokenizer, tmp_path, datasets=[entry], sequence_len=5000)
    print_inspection(seen)
    cut = capsys.readouterr().out
    assert "tokens more: --full shows them" in cut
    assert "the end<|im_end|>⟧" in cut
    print_inspection(seen, in_full=True)
    full = capsys.readouterr().out
    assert "--full" not in full
    assert full.count("word") == 500


# The page


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_page_holds_the_rows_and_no_markup_of_theirs(tokenizer: Any, tmp_path: Path):
    entry = write_rows(tmp_path / "<b>r&.jsonl", [talk(NASTY, f"{NASTY} <!-- <img src=x onerror=alert(1)>")])
    seen = look(tokenizer, tmp_path, datasets=[entry], sequence_len=500)
    page = build_page(seen)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    raw = page.partition('id="data">')[2].partition("</script>")[0]
    assert not re.search("[<>&]", raw)
    data = data_of(page)
    sample = data["rows"][0]["samples"][0]
    assert "".join(data["pieces"][number][0] for number in sample["pieces"]) == text_of(seen.rows[0])
    kinds = [int(digit) for digit in sample["kinds"]]
    pieces = seen.rows[0].samples[0].pieces
    assert kinds == [piece.learned + 2 * piece.special for piece in pieces]
    roles = [data["role_names"][role] for role, size in sample["turns"] for _ in range(size)]
    assert roles == [piece.role for piece in pieces]


def test_the_page_needs_nothing_else_and_runs_only_its_own_script(tokenizer: Any, tmp_path: Path):
    import base64
    import hashlib

    entry = write_rows(tmp_path / "r.jsonl", [talk("a", "b")])
    page = build_page(look(tokenizer, tmp_path, datasets=[entry]))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert not re.search(r"""(?:src|href)=|https?://|@import|url\(|innerHTML|insertAdjacent""", page)
