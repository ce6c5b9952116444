"""Row 18: new tokens are in embeddings, head and tokenizer alike, through training, saving, merging and reading again.

Bugs of record: transformers#45127; LlamaFactory#4408; unsloth#1971, #3444.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from siredon.selftest.rig import Rig
from siredon.selftest.row import FP32, Cell, Finding, Grid, Row, find
from siredon.selftest.talks import read_template, show_plainly
from siredon.selftest.truth import compare_tensors
from siredon.selftest.whole import LORA, Run, explain_runs, read_weights

_NEW = ("<begin>", "<end>")
_TEXT = "<begin>a<end> It is 42."
_TALK = ({"role": "user", "content": "What?"}, {"role": "assistant", "content": _TEXT})
#: How far a row must be from its start to have been trained.
_LEAST_STEP = 1e-4
_KINDS = {"untied": "llama", "tied": "llama-tied"}


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """A head of its own, and one that is the embeddings."""
    return tuple(Cell(case=case) for case in (("tied",) if grid.is_quick else _KINDS))


def run(rig: Rig, cell: Cell) -> Finding:
    """Trains two new tokens beside an adapter, merges, and reads all with transformers alone."""
    reason = explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = rig.write_model(_KINDS[cell.case])
    rows = rig.make_folder("rows") / "rows.jsonl"
    rows.write_text(json.dumps({"messages": _TALK}) + "\n")
    merged_run = Run(
        rig,
        base_model=str(folder),
        datasets=[{"path": str(rows), "type": "chat_template"}],
        chat_template="jinja",
        chat_template_jinja=read_template("chatml"),
        tokens=list(_NEW),
        gradient_accumulation_steps=1,
        mean_resizing_embeddings=True,
        lora_modules_to_save=["embed_tokens", "lm_head"],
        **LORA,
    )
    trained = read_weights(merged_run.train())
    merged = merged_run.merge()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = tokenizer.convert_tokens_to_ids(list(_NEW))
    split = [name for name in _NEW if len(tokenizer(name, add_special_tokens=False).input_ids) != 1]
    yield "new words that are not one token", float(len(split)), 0.0
    rows_there, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    yield "rows fewer than tokens", float(max(0, len(tokenizer) - len(rows_there))), 0.0
    yield (
        "rows that config and head do not agree on",
        float(abs(model.config.vocab_size - len(rows_there)) + abs(len(head) - len(rows_there))),
        0.0,
    )
    yield (
        "head that is tied and must not be, or is not",
        float((head is rows_there) != (cell.case == "tied")),
        0.0,
    )
    learned = trained["base_model.model.model.embed_tokens.modules_to_save.weight"]
    yield (
        "trained rows that are not in the merged model",
        compare_tensors({"": rows_there.detach()}, {"": learned}),
        0.0,
    )
    # A tied head gives every row a gradient
    seen = set(range(len(tokenizer))) if cell.case == "tied" else _list_seen(tokenizer)
    yield from _measure_movement(folder, rows_there.detach(), ids, seen)
    yield "logits, merged against adapter", _compare_logits(folder, merged_run.output, model, tokenizer), FP32


def _measure_movement(
    base: Path, trained: torch.Tensor, ids: list[int], seen: set[int]
) -> Iterator[tuple[str, float, float]]:
    """New rows have left their start, the average row; those that no text names are as they were."""
    start = read_weights(base)["model.embed_tokens.weight"]
    moved = [bool((trained[number] - start.mean(dim=0)).abs().max() > _LEAST_STEP) for number in ids]
    yield "new rows that did not move", float(moved.count(False)), 0.0
    unseen = [number for number in range(len(start)) if number not in seen]
    away = (trained[unseen] - start[unseen]).abs().sum(dim=1) > 0
    yield "rows of no text that moved", float(away.sum()), 0.0


def _list_seen(tokenizer: Any) -> set[int]:
    """Ids in the row of training."""
    text = show_plainly(tokenizer, _TALK, chat_template=read_template("chatml"))
    return set(tokenizer(text, add_special_tokens=False).input_ids)


def _compare_logits(base: Path, adapter: Path, merged: Any, tokenizer: Any) -> float:
    """Logits of the merged model against those of base and adapter, as transformers and PEFT alone load them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([tokenizer(_TEXT, add_special_tokens=False).input_ids])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(merged.config.vocab_size, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        found = merged.eval()(input_ids=ids, use_cache=False).logits
        wanted = adapted(input_ids=ids, use_cache=False).logits
    return compare_tensors({"logits": found}, {"logits": wanted})


ROW = Row(
    number=18,
    proves="New tokens are the same in embeddings, head and tokenizer, trained, saved, merged, read again.",
    cells=list_cells,
    run=run,
)
