"""Models and rows -> results: losses by data set, and scores of answers where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from siredon.config.schema import Config
from siredon.evaluate.candidates import Candidate, load_candidates
from siredon.evaluate.judged import judge_judged
from siredon.evaluate.loss import Loss, Losses, measure_losses
from siredon.evaluate.metric import load_metric
from siredon.evaluate.result import ALL, Outcome
from siredon.evaluate.rows import Rows, prepare_rows
from siredon.evaluate.wanted import Evaluation
from siredon.hardware import Hardware
from siredon.log import note
from siredon.train.answers import Answer, answer_questions, read_questions
from siredon.train.publish import write_whole
from siredon.train.scores import Score

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Result:
    """What was measured of a model on a data set.

    Args:
        model: `base` or `tuned`.
        split: `training` or `validation`.
        source: The data set; `ALL` for all of the split.
        num_rows: Its rows.
        loss: Its loss.
        scores: Of the model's answers, by name.
        num_answers: How many answers were scored.
    """

    model: str
    split: str
    source: str
    num_rows: int
    loss: Loss
    scores: dict[str, float] = field(default_factory=dict)
    num_answers: int = 0

    @property
    def measures(self) -> dict[str, float]:
        """Loss, perplexity and scores."""
        return {"loss": self.loss.mean, "perplexity": self.loss.perplexity, **self.scores}

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "split": self.split,
            "source": self.source,
            "rows": self.num_rows,
            "target_tokens": self.loss.num_targets,
            "loss": self.loss.mean,
            "perplexity": self.loss.perplexity,
            **({"answers": self.num_answers} if self.num_answers else {}),
            **self.scores,
        }


def judge_models(config: Config, wanted: Evaluation, hardware: Hardware, folder: Path) -> Sequence[Outcome]:
    """Judges each model on each split, as a validation of its training does.

    Raises:
        DataError: Rows or metrics that cannot be used.
        CheckpointError: No such model.
    """
    preference = config.preference
    if preference.judges or preference.compares or preference.is_unpaired:
        judged = judge_judged(config, wanted, hardware)
        (folder / ANSWERS).unlink(missing_ok=True)  # of an earlier call, whose results are replaced
        return judged
    return judge_writers(config, wanted, hardware, folder)


def judge_writers(config: Config, wanted: Evaluation, hardware: Hardware, folder: Path) -> list[Result]:
    """Judges each model by the loss of its words; answers are written to `answers.jsonl` in the folder.

    Raises:
        DataError: Rows or metrics that cannot be used.
        CheckpointError: No such model.
    """
    scores = {name: load_metric(name) for name in wanted.metrics}
    results: list[Result] = []
    lines: list[str] = []
    prepared: tuple[Rows, ...] = ()
    for candidate in load_candidates(config, wanted.which, hardware):
        # Both models are given the same tokens
        prepared = prepared or prepare_rows(config, candidate.tokenizer, wanted.split)
        for rows in prepared:
            num_rows = len(rows.packs.packs.indices)
            note(f"{candidate.name} model, {rows.split}: {num_rows:,} rows in {len(rows.packs):,} sequences")
            with candidate.as_named():
                losses = measure_losses(candidate, rows, config, hardware)
                answers = _answer(candidate, rows, config, wanted) if scores else []
            results += _put_together(candidate, rows, losses, _Scored(answers, scores))
            lines += [_describe(candidate, rows, answer) for answer in answers]
        del candidate
    if scores:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ANSWERS, "".join(lines))
    else:
        (folder / ANSWERS).unlink(missing_ok=True)  # of an earlier call, whose results are replaced
    return results


@dataclass(frozen=True)
class _Scored:
    answers: list[Answer]
    scores: dict[str, Score]

    def of(self, source: int | None) -> dict[str, float]:
        """The scores of the answers to one data set, or to all."""
        chosen = [one for one in self.answers if source is None or one.question.source == source]
        if not chosen:
            return {}
        predictions = [one.text for one in chosen]
        references = [one.question.reference for one in chosen]
        found: dict[str, float] = {}
        for score in self.scores.values():
            found |= score(predictions, references)
        return found

    def count(self, source: int | None) -> int:
        """How many answers there are."""
        return sum(source is None or one.question.source == source for one in self.answers)


def _answer(candidate: Candidate, rows: Rows, config: Config, wanted: Evaluation) -> list[Answer]:
    model, tokenizer, precision = candidate.model, candidate.tokenizer, candidate.precision
    questions = read_questions(rows.packs, tokenizer, wanted.num_answers)
    longest = config.evaluation.eval_max_new_tokens
    note(f"{len(questions):,} answers of at most {longest} tokens (`eval_max_new_tokens`)")
    options = {"max_new_tokens": longest, "eos_token_id": list(candidate.stop_ids) or None}
    with torch.inference_mode(), precision.autocasting(model.device):
        batches = answer_questions(model, tokenizer, questions, config.batch.eval_size, **options)
        return sorted(chain.from_iterable(batches), key=lambda answer: answer.question.row)


def _put_together(candidate: Candidate, rows: Rows, losses: Losses, scored: _Scored) -> Iterator[Result]:
    """The results of a split: all of it, then each data set where there are several."""
    table, indices = rows.packs.table, rows.packs.packs.indices
    counts = [0] * len(rows.sources)
    for index in indices:
        counts[table[int(index)].source] += 1
    places: list[tuple[str, int | None, int, Loss]] = [(ALL, None, len(indices), losses.whole)]
    if len(rows.sources) > 1:
        named = zip(rows.sources, range(len(rows.sources)), counts, losses.by_source, strict=True)
        places += [place for place in named if place[2]]
    for name, source, num_rows, loss in places:
        yield Result(
            candidate.name, rows.split, name, num_rows, loss, scored.of(source), scored.count(source)
        )


def _describe(candidate: Candidate, rows: Rows, answer: Answer) -> str:
    """A line of `answers.jsonl`."""
    question = answer.question
    row = {
        "model": candidate.name,
        "split": rows.split,
        "source": rows.sources[question.source],
        "row": question.row,
        "prompt": candidate.tokenizer.decode(question.prompt_ids),
        "expected": question.reference,
        "predicted": answer.text,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
