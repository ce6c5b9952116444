"""The whole data stage on real files: lengths, counts, split, cache, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SHARED_DATA
from tests.unit.data.samples import ids_of, labels_of, samples_of

from siredon.config.sections.data import DataSection, DatasetEntry
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.tokenizer import TokenizerSection
from siredon.data.prepare import Preparation, Prepared, prepare_data
from siredon.data.prompt import build_prompting
from siredon.data.types import IGNORE
from siredon.errors import DataError


def prepare(
    tokenizer: Any,
    tmp_path: Path,
    *,
    packing: dict[str, Any] | None = None,
    section: dict[str, Any] | None = None,
    **keys: Any,
) -> Prepared:
    values = {"dataset_prepared_path": str(tmp_path / "prepared"), "sequence_len": 128, **keys}
    words = TokenizerSection.model_validate(section or {})
    preparation = Preparation(tokenizer, words, DataSection.model_validate(values), 7)
    return prepare_data(preparation, PackingSection.model_validate(packing or {}))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return {"path": str(path)}


def alpaca(tmp_path: Path, outputs: list[str], name: str = "rows.jsonl") -> dict[str, str]:
    rows = [{"instruction": f"Say {i}", "input": "", "output": output} for i, output in enumerate(outputs)]
    return {**write_rows(tmp_path / name, rows), "type": "alpaca"}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.json", '[{"text": "one two"}, {"text": "three"}]', 2),
        ("a.jsonl", '{"text": "one two"}\n{"text": "three"}\n', 2),
        ("a.csv", "text\none two\nthree\n", 2),
        ("a.tsv", "text\tb\none two\t1\nthree\t2\n", 2),
        ("a.txt", "one two\nthree\n", 1),
    ],
)
def test_every_kind_of_file_is_read(tokenizer: Any, tmp_path: Path, name: str, content: str, kind: int):
    (tmp_path / name).write_text(content)
    prepared = prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / name), "type": "completion"}])
    assert len(prepared.train) == kind


def test_parquet_and_folders_are_read(tokenizer: Any, tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        pq.write_table(pa.table({"text": ["one", "two"]}), folder / f"{number}.parquet")
    prepared = prepare(tokenizer, tmp_path, datasets=[{"path": str(folder), "type": "completion"}])
    assert len(prepared.train) == 4


def test_splits_take_slices(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, ["a"] * 10)
    assert len(prepare(tokenizer, tmp_path, datasets=[{**entry, "split": "train[:30%]"}]).train) == 3


@pytest.mark.parametrize(("strategy", "kept"), [("drop", 1), ("truncate", 2)])
def test_rows_over_the_length_are_dropped_or_truncated_and_counted(
    tokenizer: Any, tmp_path: Path, strategy: str, kept: int
):
    entry = alpaca(tmp_path, ["short", "long " * 200])
    prepared = prepare(tokenizer, tmp_path, datasets=[entry], excess_length_strategy=strategy)
    assert len(prepared.train) == kept
    counts = prepared.counts[0]
    assert counts.dropped == ({"over sequence_len": 1} if strategy == "drop" else {})
    assert counts.num_truncated == (strategy == "truncate")
    assert any("1 of 2 rows" in line for line in prepared.lines)
    assert all(len(sample.input_ids) <= 128 for index in range(kept) for sample in prepared.train[index])


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_limit_is_exact(tokenizer: Any, tmp_path: Path, over: int):
    entry = alpaca(tmp_path, ["word " * 5, "x"])
    lengths = prepare(tokenizer, tmp_path, datasets=[entry], sequence_len=500).train.table.lengths
    limit = int(lengths.max()) - over
    prepared = prepare(tokenizer, tmp_path, datasets=[entry], sequence_len=limit)
    assert len(prepared.train) == (2 if over <= 0 else 1)


def test_raise_stops_at_the_first_long_row(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, ["long " * 200])
    with pytest.raises(DataError, match="over sequence_len: 128"):
        prepare(tokenizer, tmp_path, datasets=[entry], excess_length_strategy="raise")


def test_long_texts_are_cut_into_windows_that_lose_no_token(tokenizer: Any, tmp_path: Path):
    text = " ".join(str(number) for number in range(300))
    write_rows(tmp_path / "t.jsonl", [{"text": text}])
    entry = {"path": str(tmp_path / "t.jsonl"), "type": "completion"}
    train = prepare(tokenizer, tmp_path, datasets=[entry], shuffle_merged_datasets=False).train
    assert tokenizer.decode(ids_of(train)) == text + "<|im_end|>"
    assert max(train.lengths) <= 128
    assert all(sample.labels[0] == IGNORE for sample in samples_of(train))


def test_rows_that_cannot_be_read_are_all_named_with_their_numbers(tokenizer: Any, tmp_path: Path):
    rows = [
        {"instruction": "a", "output": "b"},
        {"instruction": None, "output": "b"},
        {"instruction": "c", "output": None},
    ]
    write_rows(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError) as error:
        prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "r.jsonl"), "type": "alpaca"}])
    assert "row 2 column `instruction`" in error.value.message
    assert "row 3 column `output`" in error.value.message


def test_a_row_for_which_the_template_does_too_much_is_named(tokenizer: Any, tmp_path: Path):
    said = ["b", "c" * 50]
    rows = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": word}] for word in said]
    write_rows(tmp_path / "r.jsonl", [{"messages": row} for row in rows])
    template = (
        "{% for m in messages %}{% if m.content|length == 50 %}{{ 'x' * 10**9 }}{% endif %}"
        "{{ m.role + m.content + eos_token }}{% endfor %}"
    )
    section = {"chat_template": "jinja", "chat_template_jinja": template}
    entry = {"path": str(tmp_path / "r.jsonl"), "type": "chat_template"}
    with pytest.raises(DataError, match=r"r\.jsonl: row 2: the chat template, line 1 makes a value"):
        prepare(tokenizer, tmp_path, datasets=[entry], section=section)


def test_a_run_in_which_no_stop_token_is_learned_is_stopped(tokenizer: Any, tmp_path: Path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    write_rows(tmp_path / "r.jsonl", rows)
    entry = {"path": str(tmp_path / "r.jsonl"), "type": "chat_template"}
    bare = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    before, tokenizer.chat_template = tokenizer.chat_template, bare
    try:
        with pytest.raises(DataError, match="no stop token is ever learned"):
            prepare(tokenizer, tmp_path, datasets=[entry])
        assert len(prepare(tokenizer, tmp_path, datasets=[{**entry, "train_on_eos": "none"}]).train) == 1
    finally:
        tokenizer.chat_template = before


def test_a_run_that_would_learn_nothing_is_stopped_with_the_counts(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, ["long " * 200] * 3)
    with pytest.raises(DataError, match=r"no row is left of 3 \(3 over sequence_len"):
        prepare(tokenizer, tmp_path, datasets=[entry])


def test_a_missing_file_says_where_it_was_looked_for(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "no.jsonl"), "type": "alpaca"}])


def test_broken_json_names_the_file(tokenizer: Any, tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"instruction": "a", \n')
    with pytest.raises(DataError, match=r"r\.jsonl: line 1: no JSON"):
        prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "r.jsonl"), "type": "alpaca"}])


@pytest.mark.parametrize(("size", "held_out"), [(0.25, 5), (3, 3)])
def test_the_validation_split_is_seeded_and_loses_no_row(
    tokenizer: Any, tmp_path: Path, size: float, held_out: int
):
    entry = alpaca(tmp_path, [f"answer {i}" for i in range(20)])
    first, second = (prepare(tokenizer, tmp_path, datasets=[entry], val_set_size=size) for _ in range(2))
    assert first.validation is not None
    assert len(first.validation) == held_out
    assert (ids_of(first.train) == ids_of(second.train)).all()
    texts = [
        tokenizer.decode(s.input_ids)
        for d in (first.train, first.validation)
        for i in range(len(d))
        for s in d[i]
    ]
    assert len(set(texts)) == 20


def test_a_split_that_takes_everything_is_refused(tokenizer: Any, tmp_path: Path):
    with pytest.raises(DataError, match="holds out 20 of 20"):
        prepare(tokenizer, tmp_path, datasets=[alpaca(tmp_path, ["a"] * 20)], val_set_size=20)


def test_packing_keeps_every_sample(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, [f"answer {i}" for i in range(20)])
    packed = prepare(
        tokenizer, tmp_path, datasets=[entry], sequence_len=256, packing={"sample_packing": True}
    )
    assert len(packed.train) < 20
    assert sorted(index for pack in packed.train.packs for index in pack) == list(range(20))


def prepared_folders(tmp_path: Path) -> int:
    return len([path for path in (tmp_path / "prepared").iterdir() if path.is_dir()])


def test_the_cache_is_hit_only_while_everything_that_matters_is_the_same(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, ["a", "b"])
    first = prepare(tokenizer, tmp_path, datasets=[entry])
    again = prepare(tokenizer, tmp_path, datasets=[entry])
    assert prepared_folders(tmp_path) == 1
    assert "prepared before" in again.lines[0]
    assert first.fingerprint == again.fingerprint
    changes: list[dict[str, Any]] = [
        {"sequence_len": 129},
        {"train_on_inputs": True},
        {"excess_length_strategy": "truncate"},
        {"datasets": [{**entry, "split": "train[:1]"}]},
    ]
    for number, change in enumerate(changes, start=2):
        prepare(tokenizer, tmp_path, **{"datasets": [entry], **change})
        assert prepared_folders(tmp_path) == number, change
    alpaca(tmp_path, ["a", "c"])
    prepare(tokenizer, tmp_path, datasets=[entry])
    assert prepared_folders(tmp_path) == 6


def test_the_cache_sees_a_changed_template_and_tokenizer(tokenizer: Any, tmp_path: Path):
    from tests.conftest import build_tokenizer

    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    write_rows(tmp_path / "r.jsonl", rows)
    entry = {"path": str(tmp_path / "r.jsonl"), "type": "chat_template"}
    prepare(tokenizer, tmp_path, datasets=[entry])
    other = build_tokenizer(size=400)
    other.chat_template = tokenizer.chat_template
    prepare(other, tmp_path, datasets=[entry])
    other.chat_template = tokenizer.chat_template.replace("assistant", "model")
    prepare(other, tmp_path, datasets=[entry])
    assert prepared_folders(tmp_path) == 3


def test_a_default_system_message_is_as_one_that_stands_in_the_rows(tokenizer: Any, tmp_path: Path):
    own = {"role": "system", "content": "Be loud."}
    default = {"role": "system", "content": "Be brief."}
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    bare = write_rows(tmp_path / "bare.jsonl", [{"messages": talk}, {"messages": [own, *talk]}])
    full = write_rows(tmp_path / "full.jsonl", [{"messages": [default, *talk]}, {"messages": [own, *talk]}])
    kind = {"type": "chat_template"}
    section = {"default_system_message": "Be brief."}
    found = prepare(tokenizer, tmp_path, section=section, datasets=[{**bare, **kind}])
    wanted = prepare(tokenizer, tmp_path, datasets=[{**full, **kind}])
    assert np.array_equal(ids_of(found.train), ids_of(wanted.train))
    assert np.array_equal(labels_of(found.train), labels_of(wanted.train))
    # Another message is another data set, and a prompt is asked behind it
    without = prepare(tokenizer, tmp_path, datasets=[{**bare, **kind}])
    assert found.fingerprint not in (wanted.fingerprint, without.fingerprint)
    entry = DatasetEntry.model_validate({**bare, **kind})
    asked = build_prompting(entry, TokenizerSection.model_validate(section), tokenizer).render("a")
    assert "Be brief." in asked
    # A template without a place for one is refused
    plain = {**section, "chat_template_jinja": "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"}
    with pytest.raises(DataError, match="leaves it out"):
        build_prompting(
            entry, TokenizerSection.model_validate({**plain, "chat_template": "jinja"}), tokenizer
        )


def test_a_killed_preparation_leaves_nothing_that_looks_whole(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from siredon.data import cache

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    entry = alpaca(tmp_path, ["a"])
    monkeypatch.setattr(cache.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        prepare(tokenizer, tmp_path, datasets=[entry])
    monkeypatch.undo()
    assert prepared_folders(tmp_path) == 0
    assert len(prepare(tokenizer, tmp_path, datasets=[entry]).train) == 1


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data folder is not beside this checkout")
def test_real_alpaca_rows_decode_to_their_outputs(tokenizer: Any, tmp_path: Path):
    path = SHARED_DATA / "alpaca_en_demo.json"
    rows = json.loads(path.read_text())
    entry = {"path": str(path), "type": "alpaca"}
    prepared = prepare(
        tokenizer, tmp_path, datasets=[entry], sequence_len=8192, shuffle_merged_datasets=False
    )
    assert len(prepared.train) == len(rows)
    for number in range(0, len(rows), 37):
        sample = prepared.train[number][0]
        text = tokenizer.decode(sample.labels[sample.labels != IGNORE])
        assert text == rows[number]["output"] + "<|im_end|>"
        assert np.array_equal(
            sample.input_ids[sample.labels != IGNORE], sample.labels[sample.labels != IGNORE]
        )


def test_a_folder_with_named_splits_keeps_its_test_rows_out_of_training(tokenizer: Any, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 5), ("test", 3)):
        alpaca(folder, [f"{name} {number}" for number in range(count)], f"{name}.jsonl")
    (folder / "README.md").write_text("# about\n")
    entry = {"path": str(folder), "type": "alpaca"}
    assert len(prepare(tokenizer, tmp_path, datasets=[entry]).train) == 5
    assert len(prepare(tokenizer, tmp_path, datasets=[{**entry, "split": "test"}]).train) == 3
    globbed = {**entry, "data_files": ["te*.jsonl"]}
    assert len(prepare(tokenizer, tmp_path, datasets=[globbed]).train) == 3


def test_folders_that_datasets_saved_and_compressed_files_are_read(tokenizer: Any, tmp_path: Path):
    import gzip

    import datasets

    rows = [{"text": "one"}, {"text": "two"}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    saved = {"path": str(tmp_path / "saved"), "type": "completion"}
    assert len(prepare(tokenizer, tmp_path, datasets=[saved]).train) == 2
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as stream:
        stream.write("\n".join(json.dumps(row) for row in rows))
    packed = {"path": str(tmp_path / "t.jsonl.gz"), "type": "completion"}
    assert len(prepare(tokenizer, tmp_path, datasets=[packed]).train) == 2


def test_ranks_get_equal_shares_through_empty_packs_not_repeated_rows(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, [f"answer {i}" for i in range(17)])
    values = {"dataset_prepared_path": str(tmp_path / "prepared"), "sequence_len": 128, "datasets": [entry]}
    preparation = Preparation(tokenizer, TokenizerSection(), DataSection.model_validate(values), 7)
    prepared = prepare_data(preparation, PackingSection(), multiple=8)
    assert len(prepared.train) == 24
    assert sorted(index for pack in prepared.train.packs for index in pack) == list(range(17))
    batch = prepared.collator([prepared.train[16], prepared.train[23]])
    assert batch["num_tokens"].tolist()[1] == 0
    assert (batch["labels"][1] == IGNORE).all()


def test_a_tokenizer_with_several_templates_uses_the_default_one(tokenizer: Any, tmp_path: Path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    write_rows(tmp_path / "r.jsonl", rows)
    before = tokenizer.chat_template
    tokenizer.chat_template = {"default": before, "rag": "{{ messages }}"}
    try:
        entry = {"path": str(tmp_path / "r.jsonl"), "type": "chat_template"}
        assert len(prepare(tokenizer, tmp_path, datasets=[entry]).train) == 1
    finally:
        tokenizer.chat_template = before


def test_when_every_stop_was_truncated_away_the_message_says_so(tokenizer: Any, tmp_path: Path):
    entry = alpaca(tmp_path, ["long " * 200] * 3)
    with pytest.raises(DataError, match=r"were truncated \(3 of 3\)"):
        prepare(tokenizer, tmp_path, datasets=[entry], excess_length_strategy="truncate")


def test_a_misspelt_file_is_named_with_the_one_that_is_there(tokenizer: Any, tmp_path: Path):
    alpaca(tmp_path, ["a"])
    with pytest.raises(DataError, match=r"Did you mean .*rows\.jsonl\?"):
        prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "row.jsonl"), "type": "alpaca"}])
    with pytest.raises(DataError, match=r"There is no folder .*nowhere either"):
        prepare(
            tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "nowhere/row.jsonl"), "type": "alpaca"}]
        )


def test_the_seed_the_part_and_the_function_decide_what_is_prepared(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shout.py").write_text("def up(row):\n    return {**row, 'output': row['output'].upper()}\n")
    entry = alpaca(tmp_path, [f"answer {i}" for i in range(10)])
    changes = [{}, {"shards": 3}, {"shards": 3, "shards_idx": 2}, {"shuffle": True}, {"max_samples": 4}]
    kept = [len(prepare(tokenizer, tmp_path, datasets=[{**entry, **keys}]).train) for keys in changes]
    assert kept == [10, 4, 3, 10, 4]
    changed = prepare(tokenizer, tmp_path, datasets=[{**entry, "input_transform": "shout.up"}]).train
    assert "ANSWER" in tokenizer.decode(ids_of(changed))
    assert prepared_folders(tmp_path) == 6


def test_a_row_of_a_folder_is_named_with_its_file(tokenizer: Any, tmp_path: Path):
    (tmp_path / "data").mkdir()
    alpaca(tmp_path / "data", ["a", "b"], "a.jsonl")
    (tmp_path / "data/b.jsonl").write_text('{"instruction": "x", "output": "y"}\n\n{"instruction": "x"}\n')
    with pytest.raises(DataError, match=r"data/b\.jsonl: row 2 \(line 3\) has no column `output`"):
        prepare(tokenizer, tmp_path, datasets=[{"path": str(tmp_path / "data"), "type": "alpaca"}])
