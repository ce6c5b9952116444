"""Answers in, scores out: what a reward model thinks of answers, and a process reward model of their steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siredon.config.schema import Config
from siredon.data.collate import Collator
from siredon.data.messages import MessageOptions, read_message
from siredon.data.prepare import Preparation, build_recipe, find_pad_id
from siredon.data.samples import Recipe
from siredon.data.steps import RIGHT, tokenize_steps
from siredon.data.tokenize import tokenize_rendered
from siredon.data.types import IGNORE, Conversation, RowError, Sample, Steps
from siredon.errors import DataError, ModelError
from siredon.hardware import Hardware
from siredon.model.score_head import catch_scores, find_score_head
from siredon.serve.load import load_tuned
from siredon.serve.prompts import Prompts

#: What a line of a file of answers may hold, and what is written to it.
_ASKED = ("prompt", "messages")
_GIVEN = ("answer", "answers")


@dataclass(frozen=True)
class Judge:
    """A model that judges.

    Args:
        model: The model, or PEFT's wrapper around it, on its device.
        head: Its head of scores.
        recipe: How text becomes tokens, as in training.
        by_steps: It judges steps, and not whole answers.
    """

    model: Any
    head: torch.nn.Module
    recipe: Recipe
    by_steps: bool

    def judge(self, messages: Sequence[Any], answer: str) -> list[float]:
        """The score of an answer; of its steps, the probability that each is right.

        Raises:
            DataError: It cannot be read, or is longer than what the model was trained on.
        """
        try:
            sample = self._read_steps(messages, answer) if self.by_steps else self._read(messages, answer)
        except RowError as error:
            raise DataError(f"an answer {error}", "Correct it, or take it out.") from error
        if len(sample.input_ids) > self.recipe.max_tokens:
            raise DataError(
                f"a prompt with its answer has {len(sample.input_ids):,} tokens, over sequence_len: "
                f"{self.recipe.max_tokens:,}",
                "Shorten it.",
            )
        scores = self._run(sample)
        if not self.by_steps:
            return [float(scores[-1, 0])]
        ends = np.flatnonzero(sample.labels != IGNORE)
        return [float(value) for value in scores.softmax(-1)[ends, RIGHT]]

    def split(self, answer: str) -> list[str]:
        """The steps of an answer: what stands between separators."""
        separator = self.recipe.entry.step_separator
        return [step for step in answer.split(separator) if step.strip()]

    def _read(self, messages: Sequence[Any], answer: str) -> Sample:
        asked = [*messages, {"role": "assistant", "content": answer}]
        read = tuple(read_message(item, number, MessageOptions()) for number, item in enumerate(asked, 1))
        (found,) = tokenize_rendered(
            self.recipe.tokenizer, [self.recipe.renderer.render(Conversation(read), self.recipe.policy)]
        )
        if isinstance(found, RowError):
            raise found
        return found

    def _read_steps(self, messages: Sequence[Any], answer: str) -> Sample:
        if len(messages) != 1:
            raise RowError("in steps has one prompt, and not several messages before it")
        steps = tuple(self.split(answer))
        prompt = self.recipe.options.bos + messages[0]["content"]
        item = Steps(prompt, steps, (True,) * len(steps), self.recipe.entry.step_separator)
        return tokenize_steps(item, self.recipe.tokenizer)

    @torch.inference_mode()
    def _run(self, sample: Sample) -> torch.Tensor:
        """The scores at each token, [T, K], fp32, on the CPU."""
        batch = Collator(find_pad_id(self.recipe.tokenizer), multiple=1)([(sample,)])
        device = next(self.head.parameters()).device
        ids, positions = (batch[name].to(device) for name in ("input_ids", "position_ids"))
        with catch_scores(self.head) as caught:
            self.model(input_ids=ids, position_ids=positions, use_cache=False)
        return caught[0][0].float().cpu()


def load_judge(config: Config, hardware: Hardware) -> Judge:
    """The tuned model, and how it reads.

    Raises:
        CheckpointError: There is none.
        ModelError: It gives no scores.
    """
    engine = load_tuned(config, hardware)
    base = engine.model.get_base_model() if engine.adapter == "on" else engine.model
    preparation = Preparation(
        engine.tokenizer, config.tokenizer, config.data, config.batch.seed, formats=config.preference.formats
    )
    recipe = build_recipe(config.first_dataset, preparation, config.data.sequence_len)
    by_steps = bool(config.preference.process_reward_model)
    if not by_steps and not recipe.format.uses_template:
        raise ModelError(
            f"`type: {config.first_dataset.type}` has no chat template by which an answer could be put behind a prompt",
            "Train on a data set of `type: bradley_terry.chat_template`.",
        )
    return Judge(engine.model, find_score_head(base), recipe, by_steps)


def describe_scores(judge: Judge, prompt: str, answers: Sequence[str]) -> list[str]:
    """Lines for people: each answer, or each step of it, behind its number."""
    lines = []
    for answer in answers:
        scores = judge.judge([{"role": "user", "content": prompt}], answer)
        parts = judge.split(answer) if judge.by_steps else [answer]
        lines += [f"{score:9.4f}  {part}" for score, part in zip(scores, parts, strict=True)]
    return lines


@dataclass(frozen=True)
class Answers:
    """A line of a file of answers.

    Args:
        row: What it holds.
        messages: What is answered.
        texts: The answers.
    """

    row: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    texts: tuple[str, ...]


def read_answers(source: Path) -> list[Answers]:
    """Reads JSON lines that have `prompt` or `messages`, and `answer` or `answers`.

    Raises:
        DataError: The file cannot be read, or a line is none: by file and line.
    """
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}", "Name a file of JSON lines in UTF-8.") from error
    return [_read_line(line, f"{source}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str, where: str) -> Answers:
    fix = 'Write {"prompt": "Who are you?", "answers": ["A model.", "Nobody."]}.'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON: {error}", "Write one JSON object a line.") from error
    if not isinstance(row, dict) or any(
        sum(name in row for name in names) != 1 for names in (_ASKED, _GIVEN)
    ):
        raise DataError(f"{where}: must have `prompt` or `messages`, and `answer` or `answers`", fix)
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    texts = row["answers"] if "answers" in row else [row["answer"]]
    if not isinstance(messages, list) or not all(
        isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)
        for item in messages
    ):
        raise DataError(f"{where}: what is answered is no text, and no list of messages", fix)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: an answer is no text", fix)
    return Answers(row, tuple(messages), tuple(texts))


def score_file(judge: Judge, rows: Sequence[Answers], output: Path) -> int:
    """Writes each line with `score` beside `answer`, or `scores` beside `answers`; how many there are.

    Of steps a score is a list of probabilities.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:
        for row in rows:
            each = [judge.judge(row.messages, text) for text in row.texts]
            found = [scores if judge.by_steps else scores[0] for scores in each]
            name, value = ("scores", found) if "answers" in row.row else ("score", found[0])
            file.write(json.dumps({**row.row, name: value}, ensure_ascii=False) + "\n")
    return len(rows)


def check_asked(prompts: Prompts) -> None:
    """What a model that judges is asked for is answers to one prompt, or a file of them.

    Raises:
        DataError: Otherwise.
    """
    if prompts.base or prompts.compare or prompts.gradio:
        raise DataError(
            "the base of a model that judges has no head of scores, and a page shows none",
            "Ask without `--base`, `--compare` and `--gradio`.",
        )
    if prompts.files is None and not (len(prompts.texts) == 1 and prompts.answers):
        raise DataError(
            "a model that judges is given answers",
            'Ask with `--prompt "..." --answer "..." --answer "..."`, or with `--input` and `--output`.',
        )
