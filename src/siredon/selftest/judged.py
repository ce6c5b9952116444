"""Judged answers: rows of them, runs that learn from them, and what is true of them in fp64, one answer at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from siredon.data.collate import PackDataset
from siredon.data.prepare_run import prepare_run
from siredon.data.types import IGNORE
from siredon.model.tokenizer import load_tokenizer
from siredon.selftest.whole import Run

if TYPE_CHECKING:
    from siredon.selftest.rig import Rig

#: Prompts and answers of many lengths; the second one is the worse.
PAIRS = tuple(
    (
        f"How {'very ' * (number % 3)}far is {number}?",
        f"It is {'so ' * (number % 4)}far.",
        "No" + "!" * number,
    )
    for number in range(1, 7)
)
#: What the metrics call the log-probabilities of both sides.
SIDES = ("logps/chosen", "logps/rejected")


def write_pairs(folder: Path) -> Path:
    """The pairs, as rows of `type: chat_template.default`."""
    path = folder / "pairs.jsonl"
    rows = (
        {"messages": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}
        for prompt, chosen, rejected in PAIRS
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learn_pairs(rig: Rig, **keys: Any) -> list[dict[str, float]]:
    """The metrics of a run of `rl: dpo` over the pairs, step by step."""
    run = Run(
        rig,
        **{
            "rl": "dpo",
            "datasets": [{"path": str(write_pairs(rig.folder)), "type": "chat_template.default"}],
            "chat_template": "chatml",
            **keys,
        },
    )
    return read_steps(run.train())


def read_steps(output: Path) -> list[dict[str, float]]:
    """What a run logged of its steps."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def write_judged(folder: Path, labels: Sequence[bool]) -> Path:
    """Answers that are good or bad, as rows of `rl: kto`; labels are dealt in turn."""
    path = folder / f"judged-{'-'.join(str(int(label)) for label in labels)}.jsonl"
    rows = (
        {
            "messages": [{"role": "user", "content": prompt}],
            "completion": chosen if label else rejected,
            "label": label,
        }
        for (prompt, chosen, rejected), label in zip(PAIRS, cycle(labels), strict=False)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_judged(rig: Rig, labels: Sequence[bool], **keys: Any) -> Run:
    """A run of `rl: kto` over such rows, not yet trained."""
    data = {"path": str(write_judged(rig.folder, labels)), "type": "chat_template.default"}
    return Run(rig, **{"rl": "kto", "datasets": [data], "chat_template": "chatml", **keys})


def count_own_answers(run: Run) -> int:
    """How many rows stand before their own answer, or an equal one, where another's should stand."""
    with redirect_stderr(io.StringIO()):
        prepared = prepare_run(run.config, load_tokenizer(run.config.tokenizer, run.config.model))
    assert isinstance(prepared.train, PackDataset)
    table: Any = prepared.train.table
    groups = [table.take(index) for index in range(len(table))]
    return sum(
        own.labels[own.labels != IGNORE].tolist() == other.labels[other.labels != IGNORE].tolist()
        for own, other in groups
    )


def find_log_probs(model: Path) -> list[tuple[float, float]]:
    """Of each pair, the sums of the log-probabilities of its two answers, their stop token included.

    One side at a time, in fp64, from texts that are put together here: no renderer, packing or mask has part in it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()

    def score(prompt: str, answer: str) -> float:
        before = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        first, rest = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, f"{answer}<|im_end|>")
        )
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([first + rest]), use_cache=False).logits[0]
        found = logits.log_softmax(-1)[len(first) - 1 : -1]
        return float(found[torch.arange(len(rest)), torch.tensor(rest)].sum())

    return [(score(prompt, chosen), score(prompt, rejected)) for prompt, chosen, rejected in PAIRS]
