"""`do_causal_lm_eval`: the model answers the validation rows at each validation, and its answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import gather_object

from siredon.data.collate import PackDataset
from siredon.distributed.ranks import num_ranks, rank
from siredon.train.answers import Question, answer_questions, read_questions
from siredon.train.continuation import undisturbed
from siredon.train.trainer import SiredonTrainer

#: Answers and references, in order -> numbers by name.
Score = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


class AnswerScorer:
    """Lets the model answer, and gives numbers to what it wrote.

    The likeliest token is taken each time, so nothing is drawn.  Ranks share the rows, and each has all the numbers.

    Args:
        trainer: Model and rows.
        tokenizer: Of the model.
        scores: The metrics.
        max_new_tokens: Longest answer.

    Raises:
        DataError: No row has a prompt.
    """

    def __init__(
        self, trainer: SiredonTrainer, tokenizer: Any, scores: Sequence[Score], max_new_tokens: int
    ) -> None:
        assert isinstance(trainer.eval_dataset, PackDataset)
        self._trainer, self._tokenizer = trainer, tokenizer
        self._scores, self._max_new_tokens = scores, max_new_tokens
        questions = read_questions(trainer.eval_dataset, tokenizer)
        self._questions = sorted(questions, key=lambda question: -len(question.prompt_ids))

    def measure(self) -> dict[str, float]:
        """The numbers, by name; to be asked by all ranks.

        Raises:
            Interrupted: The run is to end.
        """
        trainer, size = self._trainer, self._trainer.args.eval_batch_size
        written: list[tuple[int, str]] = []
        with undisturbed(trainer, trainer.args.seed) as model:
            for start in range(0, len(self._questions), size * num_ranks()):
                trainer.check_evaluation()
                written += self._answer(model, self._questions[start + rank() * size :][:size])
        texts = dict(gather_object(written) if num_ranks() > 1 else written)
        predictions = [texts[question.row] for question in self._questions]
        references = [question.reference for question in self._questions]
        return {
            name: value for score in self._scores for name, value in score(predictions, references).items()
        }

    def _answer(self, model: Any, questions: Sequence[Question]) -> list[tuple[int, str]]:
        batches = answer_questions(
            model, self._tokenizer, questions, max(1, len(questions)), max_new_tokens=self._max_new_tokens
        )
        return [(answer.question.row, answer.text) for batch in batches for answer in batch]
