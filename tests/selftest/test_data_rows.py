"""Rows about data fail, by their figure, with the bug planted that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from siredon.data import epochs, prepare, render, samples, tokenize
from siredon.data.collate import Collator
from siredon.data.pack import Packs
from siredon.data.types import IGNORE, Sample
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell
from siredon.selftest.table import ROWS, try_cell
from siredon.train.trainer import SiredonTrainer


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as built:
        yield built


def fails(rig: Rig, name: str, cell: Cell) -> bool:
    """Whether a row fails by its figure, and not because something broke."""
    finding = try_cell(rig, ROWS.load(name), cell)
    assert finding.measures, finding.error
    return finding.failed


def test_a_second_bos_token_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = samples.tokenize_rendered

    def double(tokenizer: Any, rows: Any) -> list[Any]:
        bos = np.array([tokenizer.bos_token_id], dtype=np.int32)
        none = np.array([IGNORE], dtype=np.int32)
        return [
            Sample(np.append(bos, row.input_ids), np.append(none, row.labels))
            for row in plain(tokenizer, rows)
        ]

    monkeypatch.setattr(samples, "tokenize_rendered", double)
    assert fails(rig, "bos", Cell(case="llama3"))
    assert fails(rig, "bos", Cell(case="type: alpaca"))


@pytest.mark.parametrize("case", ["longest row", "full length", "end to end"])
def test_labels_that_are_masked_by_the_pad_token_are_seen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, case: str
):
    plain = Collator.__call__

    def mask(self: Any, packs: Any) -> Any:
        batch = plain(self, packs)
        batch["labels"][batch["input_ids"] == self.pad_id] = IGNORE
        return batch

    monkeypatch.setattr(Collator, "__call__", mask)
    assert fails(rig, "padding", Cell(case=case))


def test_stop_tokens_that_only_the_last_turn_learns_are_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "stop_policy", lambda entry, section: render.StopPolicy("last"))
    assert fails(rig, "stop_token", Cell(case="gemma"))


def test_a_stop_token_that_inference_does_not_know_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render.Renderer, "stops", property(lambda self: (self.eos,)))
    assert fails(rig, "stop_token", Cell(case="llama3"))


def test_an_earlier_answer_that_is_not_learned_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = render._cut_pieces

    def forget(region: Any, text: str) -> list[tuple[int, int]]:
        return [] if "42" in text[region.start : region.end] else plain(region, text)

    monkeypatch.setattr(render, "_cut_pieces", forget)
    assert fails(rig, "earlier_turns", Cell(case="qwen3"))


def test_a_rewritten_answer_that_is_taken_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "check_shown", lambda messages, found: None)
    assert fails(rig, "earlier_turns", Cell(case="answers left out"))


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("case", ["alpaca", "chat_template", "input_output"])
def test_a_border_that_is_off_by_one_is_seen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, case: str, shift: int
):
    plain = tokenize._find_border
    monkeypatch.setattr(tokenize, "_find_border", lambda *found: plain(*found) + shift)
    assert fails(rig, "border", Cell(case=case))


def test_rows_without_targets_that_are_kept_are_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Sample, "num_targets", property(lambda self: 1))
    assert fails(rig, "no_targets", Cell(case="all labels masked"))


def test_a_mean_over_no_target_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def average(self: Any, model: Any, inputs: Any, **options: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"]).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, inputs["labels"].flatten())

    monkeypatch.setattr(SiredonTrainer, "compute_loss", average)
    assert fails(rig, "no_targets", Cell(case="batch without targets"))


def test_a_cut_that_is_off_by_one_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = samples._slice
    monkeypatch.setattr(samples, "_slice", lambda sample, start, end: plain(sample, start, end + 1))
    assert fails(rig, "truncation", Cell(case="truncate"))
    assert fails(rig, "truncation", Cell(case="windows"))


def test_labels_that_are_not_cut_with_the_ids_are_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    plain = samples._slice

    def shift(sample: Sample, start: int, end: int) -> Sample:
        return replace(plain(sample, start, end), labels=sample.labels[-(end - start) :])

    monkeypatch.setattr(samples, "_slice", shift)
    assert fails(rig, "truncation", Cell(case="truncate"))


@pytest.mark.parametrize("case", ["best fit", "in order"])
def test_a_last_pack_that_is_lost_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch, case: str):
    plain = epochs.build_packs

    def lose(*options: Any) -> Packs:
        packs = plain(*options)
        return Packs(packs.indices, packs.offsets[: max(2, len(packs))])

    monkeypatch.setattr(epochs, "build_packs", lose)
    assert fails(rig, "packing", Cell(packed=True, case=case))
    rig.forget()
    assert fails(rig, "packing", Cell(packed=True, case="trained"))
    rig.forget()


@pytest.mark.parametrize(
    ("part", "case"),
    [
        ("template", "chat template"),
        ("content", "bytes of the data"),
        ("tokenizer", "special tokens"),
        ("entry", "learned roles"),
        ("options", "sequence_len"),
    ],
)
def test_a_key_that_leaves_something_out_is_seen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, part: str, case: str
):
    plain = prepare.cache_key
    monkeypatch.setattr(prepare, "cache_key", lambda parts: plain({**parts, part: None}))
    assert fails(rig, "stale_cache", Cell(case=case))


def test_a_key_that_has_the_folder_of_the_output_in_it_is_seen(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    number = count()
    plain = prepare.cache_key
    monkeypatch.setattr(prepare, "cache_key", lambda parts: plain({**parts, "run": next(number)}))
    assert fails(rig, "stale_cache", Cell(case="output_dir"))
