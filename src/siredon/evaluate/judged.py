"""Models and judged rows -> results, by the validation of their training: rewards, scores, right and wrong steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from siredon.config.schema import Config
from siredon.data.collate import PackDataset
from siredon.data.pack import gather_packs
from siredon.data.table import JoinedTable
from siredon.errors import DataError
from siredon.evaluate.candidates import Candidate
from siredon.evaluate.loss import explained_memory, gather_judging
from siredon.evaluate.pair_samples import NUM_SAMPLES, PairSample, take_samples
from siredon.evaluate.result import ALL
from siredon.evaluate.rows import Rows, prepare_rows
from siredon.evaluate.start import load_start_and_tuned
from siredon.evaluate.wanted import Evaluation
from siredon.hardware import Hardware, release_memory
from siredon.log import note
from siredon.model.quantized import taken_for_whole
from siredon.model.second_model import load_second_model
from siredon.registry import Shelf
from siredon.train.chunked_loss import choose_loss_
from siredon.train.isolation import check_isolation
from siredon.train.pair_trainer import PairTrainer
from siredon.train.reward_trainer import RewardTrainer
from siredon.train.trainer import SiredonTrainer

TRAINERS = Shelf("siredon.train.methods", "TRAINER", "rl")


@dataclass(frozen=True)
class Judgement:
    """What was measured of a model on judged rows.

    Args:
        model: `start` or `tuned`.
        split: `training` or `validation`.
        source: The data set; `ALL` for all of the split.
        num_rows: Its rows.
        unit: What a row is, in the plural.
        measures: By name, in the order in which they are shown; the loss is missing where it is one of all rows only.
        samples: The first pairs, one by one, where two models are compared on pairs.
    """

    model: str
    split: str
    source: str
    num_rows: int
    unit: str
    measures: dict[str, float]
    samples: tuple[PairSample, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        place = {"model": self.model, "split": self.split, "source": self.source, "rows": self.num_rows}
        return place | self.measures


def judge_judged(config: Config, wanted: Evaluation, hardware: Hardware) -> list[Judgement]:
    """Judges each model on each split, as a validation of its training does.

    Raises:
        DataError: Rows that cannot be used, or metrics of answers, which there are none of.
        CheckpointError: No such model, or nothing says what it started from.
    """
    check_metrics(config, wanted)
    results: list[Judgement] = []
    prepared: tuple[Rows, ...] = ()
    names_reference = config.preference.has_reference and config.reference.is_chosen
    num_samples = wanted.num_answers or NUM_SAMPLES
    if wanted.which != "both" or not config.preference.compares:
        num_samples = 0
    for candidate in load_start_and_tuned(config, wanted.which, hardware):
        is_start = candidate.name == "start"
        if not prepared:
            prepared = tuple(map(_part, prepare_rows(config, candidate.tokenizer, wanted.split)))
            if names_reference:
                prepared = _score_by_named(candidate, prepared, config, hardware)
        with candidate.as_named(), explained_memory(config):
            trainer = build_trainer(candidate, prepared[0], config, hardware)
            if (
                is_start
                and not names_reference
                and isinstance(trainer, PairTrainer)
                and trainer.needs_reference
            ):
                # The tuned model is held against the same numbers
                prepared = tuple(_score(trainer, rows, "the start") for rows in prepared)
            if not is_start or wanted.which != "tuned":
                for rows in prepared:
                    whole, *parts = _judge(trainer, candidate, rows, config)
                    results += [_add_samples(whole, trainer, candidate, rows, num_samples), *parts]
        del candidate, trainer
    return results


def _add_samples(
    whole: Judgement, trainer: SiredonTrainer, candidate: Candidate, rows: Rows, num_samples: int
) -> Judgement:
    """The result of a split, with its first pairs one by one."""
    if not num_samples:
        return whole
    assert isinstance(trainer, (PairTrainer, RewardTrainer))  # Rows are pairs
    return replace(whole, samples=take_samples(trainer, candidate.tokenizer, rows, num_samples))


def check_metrics(config: Config, wanted: Evaluation) -> None:
    """Refuses metrics of answers that a model writes.

    Raises:
        DataError: There are any.
    """
    if not wanted.metrics:
        return
    asked, preference = f"`--metric {wanted.metrics[0]}`", config.preference
    if preference.judges:
        raise DataError(
            f"{asked}: a model that judges (`{preference.switch}`) writes no answer",
            "Leave `--metric` out: how often it is right is measured anyway.",
        )
    raise DataError(
        f"{asked} compares what a model writes with the one right answer of a row, and rows of `{preference.switch}` "
        "have none",
        "Leave `--metric` out, or name rows that have: "
        f"siredon evaluate CONFIG --metric {wanted.metrics[0]} rl= val_set_size=0 "
        "'datasets=[{path: FILE, type: chat_template}]' 'test_datasets=[{path: FILE, type: chat_template}]'",
    )


def build_trainer(candidate: Candidate, rows: Rows, config: Config, hardware: Hardware) -> SiredonTrainer:
    """The trainer of the method, which validates and does not train."""
    options = gather_judging(candidate, rows, config, hardware)
    with taken_for_whole(candidate.model):
        trainer = TRAINERS.load(config.preference.method)(candidate.base, config, options)
    assert isinstance(trainer, SiredonTrainer)
    if not config.preference.judges:  # As in training: their losses are not over words
        choose_loss_(trainer, candidate.base, config, hardware)
    if config.shares_sequences:
        check_isolation(trainer, config.attention.attn_implementation)
    return trainer


def _part(rows: Rows) -> Rows:
    """The same rows, in whose packs none is beside one of another data set: of a pack it is measured what it is of."""
    table, packs = rows.packs.table, rows.packs.packs
    assert isinstance(table, JoinedTable)
    found = []
    for pack in packs:
        borders = np.flatnonzero(np.diff(table.tables_of(pack))) + 1
        found += np.split(pack, borders) if len(borders) else [pack]
    return replace(
        rows, packs=PackDataset(table, gather_packs([pack.tolist() for pack in found if len(pack)]))
    )


def _score_by_named(
    candidate: Candidate, prepared: tuple[Rows, ...], config: Config, hardware: Hardware
) -> tuple[Rows, ...]:
    """The rows with what the reference makes of them that the file names; it is let go again."""
    second = load_second_model(
        config, candidate.tokenizer, candidate.precision, hardware, candidate.model.device
    )
    note(f"reference: {second.name}")
    reference = replace(candidate, model=second.model, base=second.base, is_switched_off=False)
    with explained_memory(config):
        trainer = build_trainer(reference, prepared[0], config, hardware)
        assert isinstance(trainer, PairTrainer)
        scored = tuple(_score(trainer, rows, "the reference") for rows in prepared)
    del trainer, reference, second
    release_memory(hardware)
    return scored


def _score(trainer: PairTrainer, rows: Rows, name: str) -> Rows:
    """The rows with what a model makes of them, in the very batches in which others are compared with it."""
    packs, size = rows.packs, trainer.args.eval_batch_size
    table: Any = packs.table
    model: Any = trainer.model
    known = np.zeros(table.sample_lengths.shape, dtype=np.float32)
    collator: Any = trainer.data_collator
    note(f"{rows.split}: log-probabilities of {len(packs.packs.indices):,} {table.unit} by {name}")
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for first in range(0, len(packs), size):
            places = range(first, min(first + size, len(packs)))
            batch: Any = trainer._prepare_inputs(collator([packs[place] for place in places]))
            found = trainer.score_groups(model, batch)
            known[np.concatenate([packs.packs[place] for place in places])] = found.cpu().numpy()
    extended = copy.copy(packs)
    extended.table = replace(table, reference=known.flatten())
    return replace(rows, packs=extended)


def _judge(trainer: SiredonTrainer, candidate: Candidate, rows: Rows, config: Config) -> Iterator[Judgement]:
    """The results of a split: all of it, then each data set where there are several."""
    packs = rows.packs
    table: Any = packs.table
    unit = "answers" if config.preference.process_reward_model else table.unit
    num_rows = len(packs.packs.indices)
    note(f"{candidate.name} model, {rows.split}: {num_rows:,} {unit} in {len(packs):,} sequences")
    found = trainer.evaluation_loop(trainer.get_eval_dataloader(packs), rows.split).metrics or {}
    names = config.preference.measured

    def put(source: str, number: int, measured: dict[str, float]) -> Judgement:
        measures = {name: measured[name] for name in names if name in measured}
        return Judgement(candidate.name, rows.split, source, number, unit, measures)

    yield put(ALL, num_rows, {name.removeprefix("eval_"): value for name, value in found.items()})
    sources = table.tables_of(packs.packs.indices[packs.packs.offsets[:-1]])
    counts = np.bincount(table.tables_of(packs.packs.indices), minlength=len(rows.sources)).tolist()
    for source, number in enumerate(counts if len(rows.sources) > 1 else ()):
        if number:
            chosen = torch.from_numpy(np.flatnonzero(sources == source))
            yield put(rows.sources[source], number, trainer.name_part(chosen))
