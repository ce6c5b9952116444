"""Pairs of answers: rows of them, runs that learn from them, and what is true of them in fp64, one side at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

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
    rows = [json.loads(line) for line in (run.train() / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


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
