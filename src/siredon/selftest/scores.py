"""Models that judge: rows for them, runs over these, and what is true of them in fp64, one answer at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from siredon.selftest.judged import PAIRS
from siredon.selftest.row import Cell, Grid
from siredon.selftest.whole import LORA, Run

if TYPE_CHECKING:
    from siredon.selftest.rig import Rig

#: By how much the better answer of each of `PAIRS` should be ahead, and the weight that keeps scores around 0.
MARGINS = tuple(number / 4 for number in range(len(PAIRS)))
CENTER = 0.1
#: Prompts, and answers in steps of many lengths, each with whether it is right.
STEPS = tuple(
    (
        f"Count to {number}.",
        tuple(f"{step} is {'so ' * (step % 3)}next." for step in range(1, number + 1)),
        tuple((step + number) % 3 > 0 for step in range(1, number + 1)),
    )
    for number in range(1, 7)
)
#: A pair or an answer a step, whose weights stay as they are; all in one step, alone, padded beside each other, packed.
SHARED: dict[str, dict[str, Any]] = {
    "one by one": {"gradient_accumulation_steps": 1, "max_steps": len(PAIRS)},
    "padded": {"micro_batch_size": len(PAIRS), "gradient_accumulation_steps": 1, "max_steps": 1},
    "packed": {"sample_packing": True, "sequence_len": 256, "gradient_accumulation_steps": 9, "max_steps": 1},
}
#: So small a step changes no weight: what is saved is what was trained with.
STILL = {"learning_rate": 1e-30}


#: The case of a run with an adapter, whose head is saved with it and merged.
ADAPTER = "adapter"


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """How pairs or answers share batches; and an adapter."""
    return tuple(Cell(case=case) for case in (("packed", ADAPTER) if grid.is_quick else (*SHARED, ADAPTER)))


def build_run(rig: Rig, kind: str, case: str) -> Run:
    """A run that is validated once, at its end, over the rows that it learns from; not yet trained.

    Args:
        rig: Where.
        kind: `reward_model` or `process_reward_model`.
        case: Of `list_cells`.
    """
    keys = LORA if case == ADAPTER else {**STILL, **SHARED[case]}
    if kind == "reward_model":
        data = {"path": str(_write_pairs(rig.folder)), "type": "bradley_terry.chat_template"}
        own: dict[str, Any] = {"chat_template": "chatml", "center_rewards_coefficient": CENTER}
    else:
        data = {"path": str(_write_steps(rig.folder)), "type": "stepwise_supervised"}
        own = {}
    last = {"eval_strategy": "steps", "eval_steps": keys.get("max_steps", 3)}
    return Run(rig, **{kind: True, "datasets": [data], "test_datasets": [data], **own, **last, **keys})


def read_logged(output: Path) -> tuple[list[dict[str, float]], dict[str, float]]:
    """What a run logged of its steps, and of its last validation."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row], [row for row in rows if "eval_loss" in row][-1]


def find_scores(model: Path) -> list[tuple[float, float]]:
    """Of each pair, the scores of its two answers by the model of a folder, each at the last token of its text.

    One side at a time, in fp64, from texts that are put together here: no renderer, packing or mask has part in it.
    """
    from transformers import AutoModelForSequenceClassification

    def score(prompt: str, answer: str) -> float:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        return float(read([text])[-1, 0])

    read = _Reader(model, AutoModelForSequenceClassification)
    return [(score(prompt, chosen), score(prompt, rejected)) for prompt, chosen, rejected in PAIRS]


def find_pair_losses(scores: Sequence[tuple[float, float]]) -> list[float]:
    """The loss of each pair, by its formula."""
    return [
        math.log1p(math.exp(-(chosen - rejected - margin))) + CENTER * (chosen + rejected) ** 2
        for (chosen, rejected), margin in zip(scores, MARGINS, strict=True)
    ]


def find_step_losses(model: Path) -> list[list[float]]:
    """Of each answer, the loss of its steps by the model of a folder, each at the last token of what ends it.

    One answer at a time, in fp64.
    """
    from transformers import AutoModelForTokenClassification

    read = _Reader(model, AutoModelForTokenClassification)
    found = []
    for prompt, steps, labels in STEPS:
        ends = [
            read.count([prompt, *(f"{step}\n" for step in steps[: number + 1])])
            for number in range(len(steps))
        ]
        logs = read([prompt, *(f"{step}\n" for step in steps)]).log_softmax(-1)
        found.append([-float(logs[end - 1, int(label)]) for end, label in zip(ends, labels, strict=True)])
    return found


class _Reader:
    """A model that judges, in fp64: texts, one behind the other -> what its head gives at each token."""

    def __init__(self, folder: Path, kind: Any) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = kind.from_pretrained(folder, dtype=torch.float64).eval()

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of texts."""
        return len(self._read(texts))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Scores, [T, K]."""
        with torch.no_grad():
            body = self._model.base_model(input_ids=torch.tensor([self._read(texts)]), use_cache=False)
            scores: torch.Tensor = self._model.score(body.last_hidden_state)[0]
        return scores

    def _read(self, texts: Sequence[str]) -> list[int]:
        return [
            token for text in texts for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]
        ]


def _write_pairs(folder: Path) -> Path:
    rows = (
        {"input": prompt, "chosen": chosen, "rejected": rejected, "margin": margin}
        for (prompt, chosen, rejected), margin in zip(PAIRS, MARGINS, strict=True)
    )
    return _write(folder / "scored.jsonl", rows)


def _write_steps(folder: Path) -> Path:
    rows = ({"prompt": prompt, "completions": steps, "labels": labels} for prompt, steps, labels in STEPS)
    return _write(folder / "steps.jsonl", rows)


def _write(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
