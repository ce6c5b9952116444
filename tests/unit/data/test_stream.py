"""Streams over real files: nothing lost, nothing doubled, and the same rest from any place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import ROOT

from siredon.config.sections.data import DataSection
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.streaming import StreamingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.prepare import Preparation, Prepared
from siredon.data.prepare_stream import prepare_stream
from siredon.data.stream import Stream
from siredon.data.types import IGNORE, Pack
from siredon.errors import DataError

MANNERS: dict[str, dict[str, Any]] = {
    "packed": {"sample_packing": True},
    "in order": {"sample_packing": True, "curriculum_sampling": True},
    "open": {"sample_packing": True, "pretrain_multipack_attn": False},
    "joined": {"pretraining_sample_concatenation": True},
    "single": {},
}


def write_texts(folder: Path, name: str, count: int, ending: str = "jsonl") -> str:
    rows = [{"text": f"{name}{number} " + "word " * (number * 7 % 11)} for number in range(count)]
    path = folder / f"{name}.{ending}"
    if ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(tokenizer: Any, sources: list[Any], seed: int = 7, buffer: int = 10, **keys: Any) -> Prepared:
    def pick(section: type[Any]) -> dict[str, Any]:
        return {name: value for name, value in keys.items() if name in section.model_fields}

    streaming = {"pretraining_dataset": sources, "streaming_multipack_buffer_size": buffer}
    preparation = Preparation(
        tokenizer,
        TokenizerSection(),
        DataSection.model_validate({"sequence_len": 48, **pick(DataSection)}),
        seed,
        streaming=StreamingSection.model_validate({**streaming, **pick(StreamingSection)}),
    )
    return prepare_stream(preparation, PackingSection.model_validate(pick(PackingSection)))


def open_stream(tokenizer: Any, sources: list[Any], **keys: Any) -> Stream:
    stream = prepare(tokenizer, sources, **keys).train
    assert isinstance(stream, Stream)
    return stream


def show(pack: Pack) -> list[Any]:
    return [[sample.input_ids.tolist(), sample.labels.tolist()] for sample in pack]


def texts_of(tokenizer: Any, packs: Any) -> list[str]:
    """Every document of some packs."""
    text = "".join(tokenizer.decode(sample.input_ids) for pack in packs for sample in pack)
    return text.split(tokenizer.eos_token)[:-1]


def expected(name: str, count: int) -> list[str]:
    return [f"{name}{number} " + "word " * (number * 7 % 11) for number in range(count)]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_one_pass_holds_every_row_once(tokenizer: Any, tmp_path: Path, manner: str, ending: str):
    sources = [
        {"path": write_texts(tmp_path, "a", 37, ending), "repeat": False, "skip": 3, "max_samples": 30},
        {"path": write_texts(tmp_path, "b", 13, ending), "repeat": False},
    ]
    stream = open_stream(tokenizer, sources, **MANNERS[manner])
    packs = list(stream)
    wanted = Counter(expected("a", 37)[3:33] + expected("b", 13))
    assert Counter(texts_of(tokenizer, packs)) == wanted
    assert all(sum(len(sample.input_ids) for sample in pack) <= 48 for pack in packs)
    assert list(stream) == []  # it has ended, and does not begin again
    assert [counts.num_rows for counts in stream.counts] == [30, 13]


def test_a_source_begins_again_only_after_its_last_row(tokenizer: Any, tmp_path: Path):
    stream = open_stream(tokenizer, [write_texts(tmp_path, "a", 23)])
    packs = list(islice(stream, 23 * 3))
    for start in (0, 23, 46):
        # A window reaches over the end of a pass, so rows near it may change places with those of the next
        assert len(set(texts_of(tokenizer, packs[start : start + 23]))) >= 23 - 10
    assert set(Counter(texts_of(tokenizer, islice(stream, 23 * 10))).values()) == {10}


@pytest.mark.parametrize("manner", MANNERS)
def test_the_seed_decides_everything_and_shuffles(tokenizer: Any, tmp_path: Path, manner: str):
    sources = [write_texts(tmp_path, "a", 40), write_texts(tmp_path, "b", 40)]

    def take(seed: int) -> list[Any]:
        return [
            show(pack) for pack in islice(open_stream(tokenizer, sources, seed=seed, **MANNERS[manner]), 25)
        ]

    assert take(1) == take(1)
    assert (take(1) == take(2)) == (manner == "in order")


def test_without_a_shuffle_rows_come_in_turns_and_in_order(tokenizer: Any, tmp_path: Path):
    sources = [
        {"path": write_texts(tmp_path, "a", 40), "weight": 2},
        {"path": write_texts(tmp_path, "b", 40), "weight": 1},
    ]
    stream = open_stream(tokenizer, sources, shuffle_merged_datasets=False)
    names = [text.split(" ")[0] for text in texts_of(tokenizer, islice(stream, 12))]
    assert names == ["a0", "b0", "a1", "a2", "b1", "a3", "a4", "b2", "a5", "a6", "b3", "a7"]


def test_weights_hold_and_rows_count_where_there_are_none(tokenizer: Any, tmp_path: Path):
    paths = [write_texts(tmp_path, "a", 50), write_texts(tmp_path, "b", 150)]
    weighted = [{"path": path, "weight": weight} for path, weight in zip(paths, (7, 3), strict=True)]
    for sources, share in ((weighted, 0.7), (paths, 0.25)):
        stream = open_stream(tokenizer, sources, buffer=100)
        texts = texts_of(tokenizer, islice(stream, 2000))
        assert sum(text.startswith("a") for text in texts) == pytest.approx(2000 * share, abs=2)


@pytest.mark.parametrize("manner", MANNERS)
@given(used=st.integers(0, 50), ahead=st.integers(0, 9), buffer=st.integers(1, 30), repeat=st.booleans())
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_the_rest_is_the_same_from_any_place(
    tokenizer: Any, tmp_path: Path, manner: str, used: int, ahead: int, buffer: int, repeat: bool
):
    sources = [
        {"path": write_texts(tmp_path, "a", 41, "parquet"), "weight": 3, "repeat": repeat},
        {"path": write_texts(tmp_path, "b", 23), "weight": 1, "repeat": repeat},
    ]

    def fresh() -> Stream:
        return open_stream(tokenizer, sources, buffer=buffer, **MANNERS[manner])

    whole = [show(pack) for pack in islice(fresh(), 60)]
    used = min(used, len(whole))
    stream = fresh()
    packs = iter(stream)
    for number in range(used + ahead):  # a loader reads ahead of what is trained on
        next(packs, None)
        stream.forget(min(number, used))
    state = json.loads(json.dumps(stream.state_at(used)))
    for _ in range(2):  # the second time from a place that a resumed stream told
        resumed = fresh()
        resumed.restore_(state)
        assert [show(pack) for pack in islice(resumed, 60 - used)] == whole[used:]
        state = resumed.state_at(used)


def test_texts_longer_than_a_sequence_are_cut_or_joined_and_all_is_learned(tokenizer: Any, tmp_path: Path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": f"x{n} " + "many words " * 40}) + "\n" for n in range(4)))
    joined = list(open_stream(tokenizer, [{"path": str(path), "repeat": False}], **MANNERS["joined"]))
    assert {len(pack[0].input_ids) for pack in joined[:-1]} == {48}
    assert all((sample.labels[1:] != IGNORE).all() for pack in joined for sample in pack)
    single = list(open_stream(tokenizer, [{"path": str(path), "repeat": False}]))
    for packs in (joined, single):
        tokens = sum(len(sample.input_ids) for pack in packs for sample in pack)
        assert tokens == sum(len(sample.input_ids) for pack in joined for sample in pack)


def test_chats_beside_plain_text_are_streamed_too(tokenizer: Any, tmp_path: Path):
    chats = {
        "path": str(ROOT / "examples/smollm2/identity.jsonl"),
        "type": "chat_template",
        "max_samples": 20,
    }
    sources = [{"path": write_texts(tmp_path, "a", 20)}]
    stream = open_stream(tokenizer, sources, datasets=[chats], sequence_len=400, buffer=100)
    packs = list(islice(stream, 40))
    masked = [pack for pack in packs if (pack[0].labels == IGNORE).sum() > 1]
    assert len(masked) == 20


def test_what_cannot_be_streamed_says_why(tokenizer: Any, tmp_path: Path):
    path = write_texts(tmp_path, "a", 5)
    with pytest.raises(DataError, match="`skip: 5` leaves none of 5 rows"):
        open_stream(tokenizer, [{"path": path, "skip": 5}])
    with pytest.raises(DataError, match="has no column `txt`"):
        next(iter(open_stream(tokenizer, [{"path": path, "text_column": "txt"}])))
    with pytest.raises(DataError, match="no row is left of 5"):
        next(iter(open_stream(tokenizer, [path], min_sample_len=40)))


def test_the_fingerprint_changes_with_what_the_stream_gives(tokenizer: Any, tmp_path: Path):
    path = write_texts(tmp_path, "a", 5)
    first = prepare(tokenizer, [path]).fingerprint
    assert prepare(tokenizer, [path]).fingerprint == first
    changed = [
        prepare(tokenizer, [path], buffer=3),
        prepare(tokenizer, [path], seed=8),
        prepare(tokenizer, [{"path": path, "weight": 2}]),
        prepare(tokenizer, [path], sample_packing=True),
        prepare(tokenizer, [path], pretraining_sample_concatenation=True),
        prepare(tokenizer, [path, path]),
    ]
    write_texts(tmp_path, "a", 6)
    changed.append(prepare(tokenizer, [path]))
    assert len({first, *(prepared.fingerprint for prepared in changed)}) == 1 + len(changed)


MEASURE = """
import resource, sys
from tests.conftest import build_tokenizer
from tests.unit.data.test_stream import open_stream
source = {"path": sys.argv[1], "repeat": False}
stream = open_stream(build_tokenizer(), [source], buffer=300, sequence_len=512, sample_packing=True)
peaks, rows = [], 0
for number, pack in enumerate(stream):
    rows += len(pack)
    if rows >= 3_000 * (len(peaks) + 1):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        stream.forget(number)
print(rows, peaks[0], peaks[-1], len(stream._places))
"""


def test_memory_is_flat_over_a_stream_of_a_hundred_buffers(tmp_path: Path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} " + "ab " * 40}) + "\n" for n in range(30_000)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows, first, last, places = map(int, done.stdout.split())
    assert rows == 30_000
    assert places < 15
    assert last < first + 8_000, f"{first} -> {last} KiB"
