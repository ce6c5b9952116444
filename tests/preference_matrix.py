"""Methods of learning from judged answers x adapters x packing x reference: what each combination does, and the page.

    python -m tests.preference_matrix docs/preference-matrix.md       (or `make matrix`)

Each cell is a configuration.  `siredon check` refuses it, or `siredon train` learns from a few rows on the CPU.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import build_tokenizer
from tests.families import write_family

from siredon import pipeline
from siredon.config.load import check_config
from siredon.errors import SiredonError

_LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
#: What an adapter that was trained before stands in for the folder of.
_EARLIER = "EARLIER"
ADAPTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "`lora`": _LORA,
    "`lora`, continued": {**_LORA, "lora_model_dir": _EARLIER},
    "DoRA": {**_LORA, "peft_use_dora": True},
    "`qlora`": {**_LORA, "adapter": "qlora", "load_in_4bit": True},
}
METHODS: dict[str, dict[str, Any]] = {
    "`rl: dpo`": {"rl": "dpo"},
    "`rl: dpo`, several losses": {
        "rl": "dpo",
        "dpo_loss_type": ["sigmoid", "sft"],
        "dpo_loss_weights": [1.0, 0.5],
    },
    "`rl: dpo`, `aot`": {"rl": "dpo", "dpo_loss_type": ["aot"]},
    "`rl: dpo`, weighted": {"rl": "dpo", "dpo_use_weighting": True},
    "`rl: ipo`": {"rl": "ipo"},
    "`rl: simpo`": {"rl": "simpo"},
    "`rl: orpo`": {"rl": "orpo"},
    "`rl: kto`": {"rl": "kto"},
    "`reward_model`": {"reward_model": True},
    "`process_reward_model`": {"process_reward_model": True},
}
PACKINGS = {"unpacked": {}, "packed": {"sample_packing": True}}
REFERENCES = {"beside": {}, "ahead": {"precompute_ref_log_probs": True}}
_LEAST: dict[str, Any] = {
    "dataset_prepared_path": "prepared",
    "chat_template": "chatml",
    "sequence_len": 128,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 6,
    "learning_rate": 5e-3,
    "optimizer": "adamw_torch",
    "bf16": False,
    "tf32": False,
    "logging_steps": 1,
    "save_strategy": "no",
}
TRAINS = "trains"


@dataclass(frozen=True)
class Cell:
    """One combination."""

    method: str
    adapter: str
    packing: str
    reference: str

    def keys(self, work: Path) -> dict[str, Any]:
        """Its configuration."""
        own = METHODS[self.method]
        found = {
            "base_model": str(work / "model"),
            "datasets": [write_rows(own, work)],
            **_LEAST,
            **own,
            **ADAPTERS[self.adapter],
            **PACKINGS[self.packing],
            **REFERENCES[self.reference],
            "dataset_prepared_path": str(work / "prepared"),
            "output_dir": str(work / "out"),
        }
        if found.get("lora_model_dir") == _EARLIER:
            found["lora_model_dir"] = str(work / "earlier")
        return found


def write_rows(method: dict[str, Any], work: Path) -> dict[str, str]:
    """The data set that a method learns from: of it, "yes" is good and "no" is bad."""
    rows: list[dict[str, Any]] = []
    kind = "chat_template.default"
    for number in range(12):
        question = f"Is {number} {'more' * (number % 5)}?"
        if method.get("rl") == "kto":
            good = number % 2 == 0
            answer = f"Yes {number}" if good else f"No {number}"
            rows.append(
                {
                    "messages": [{"role": "user", "content": question}],
                    "completion": {"role": "assistant", "content": answer},
                    "label": good,
                }
            )
        elif method.get("process_reward_model"):
            kind = "stepwise_supervised"
            steps = [f"Yes {number}.", f"No {number}."]
            rows.append({"prompt": question, "completions": steps, "labels": [True, False]})
        else:
            message = [{"role": "user", "content": question}]
            rows.append({"messages": message, "chosen": f"Yes {number}.", "rejected": f"No {number}, no."})
    if method.get("reward_model"):
        kind = "bradley_terry.chat_template"
    path = work / f"{kind}-{method.get('rl', '')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path), "type": kind}


def try_cell(cell: Cell, work: Path) -> str:
    """`trains`, or the reason why not: the codes of `check`, or what is said of this model.

    Raises:
        AssertionError: It trains, and the loss does not fall, or is no number.
    """
    path = work / "cell.json"
    path.write_text(json.dumps(cell.keys(work)))
    checked = check_config(str(path))
    if checked.config is None:
        return " ".join(sorted({found.code for found in checked.diagnostics if found.severity == "error"}))
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            pipeline.train(checked.config)
    except SiredonError as error:
        return error.message.replace(str(work), "")
    lines = (work / "out" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert all(map(math.isfinite, losses)), f"{cell}: {losses}"
    assert min(losses[-2:]) < losses[0], f"{cell}: the loss does not fall: {losses}"
    return TRAINS


def try_all(work: Path) -> dict[Cell, str]:
    """Every cell, in an empty folder."""
    model = work / "model"
    write_family("llama", model, build_tokenizer())
    earlier = {
        "base_model": str(model),
        "datasets": [write_rows({}, work)],
        **_LEAST,
        **_LORA,
        "rl": "dpo",
        "dataset_prepared_path": str(work / "prepared"),
        "output_dir": str(work / "earlier"),
    }
    path = work / "earlier.json"
    path.write_text(json.dumps(earlier))
    config = check_config(str(path)).config
    assert config is not None
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        pipeline.train(config)
    return {
        cell: try_cell(cell, work)
        for method in METHODS
        for adapter in ADAPTERS
        for packing in PACKINGS
        for reference in REFERENCES
        for cell in [Cell(method, adapter, packing, reference)]
    }


def show_page(outcomes: dict[Cell, str]) -> str:
    """The page, as Markdown."""
    reasons: list[str] = []
    columns = [(packing, reference) for packing in PACKINGS for reference in REFERENCES]
    parts = [
        "# Judged answers: what works together",
        "Methods that learn from judged answers, each with every adapter, packed and unpacked, with the reference\n"
        "computed beside the policy and ahead (`precompute_ref_log_probs`): a tiny model with random weights learns\n"
        "from twelve rows on the CPU, and its loss must fall. ✓ trains; `SD…` is refused by `siredon check` before\n"
        "anything loads, for the reason behind the link; a number is refused later, with the message below. `make\n"
        "matrix` writes this page, and a test holds it to what it says.",
    ]
    for method in METHODS:
        head = " | ".join(f"{packing}, {reference}" for packing, reference in columns)
        table = [f"| adapter | {head} |", f"|---|{'---|' * len(columns)}"]
        for adapter in ADAPTERS:
            shown = [_show(outcomes[Cell(method, adapter, *column)], reasons) for column in columns]
            table.append(f"| {adapter} | {' | '.join(shown)} |")
        parts += [f"## {method}", "\n".join(table)]
    codes = {code for outcome in outcomes.values() if outcome.startswith("SD") for code in outcome.split()}
    if reasons:
        parts += ["## Reasons", "\n".join(f"{index}. {reason}" for index, reason in enumerate(reasons, 1))]
    if codes:
        parts.append("\n".join(f"[{code}]: reference/rules.md#{code.lower()}" for code in sorted(codes)))
    return "\n\n".join(parts) + "\n"


def _show(outcome: str, reasons: list[str]) -> str:
    if outcome == TRAINS:
        return "✓"
    if outcome.startswith("SD"):
        return " ".join(f"[{code}]" for code in outcome.split())
    if outcome not in reasons:
        reasons.append(outcome)
    return f"({reasons.index(outcome) + 1})"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = show_page(try_all(Path(folder)))
    Path(sys.argv[1]).write_text(page)


if __name__ == "__main__":
    main()
