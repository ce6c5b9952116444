"""Row 29: what a run writes is read by transformers alone, asks the same prompt, says the same, and stops the same.

Bug of record: exports without chat template, eos ids, number format or generation config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from siredon.data.prompt import Prompting, build_prompting
from siredon.model.tokenizer import load_tokenizer
from siredon.selftest.rig import Rig
from siredon.selftest.row import Cell, Finding, Grid, Row, find
from siredon.selftest.talks import TALK, count_differences, read_plainly, read_template
from siredon.selftest.whole import LORA, Run, explain_runs, read_weights

_QUESTION, _ANSWER = TALK[0]["content"], TALK[1]["content"]
_NUM_STEPS = 30
#: Kinds of artifacts -> keys of the run that makes one.
_KINDS: dict[str, dict[str, Any]] = {
    "model": {"learning_rate": 0.005},
    "merged adapter": {**LORA, "lora_modules_to_save": ["embed_tokens", "lm_head"]},
}
_GGUF = "gguf"
_GGUF_ELSEWHERE = (
    "a GGUF file is read back and held against its model by `siredon export`, each time, and not here yet"
)


def list_cells(grid: Grid) -> tuple[Cell, ...]:
    """A whole model, an adapter merged into its base, a GGUF file."""
    return tuple(Cell(case=case) for case in (("merged adapter",) if grid.is_quick else (*_KINDS, _GGUF)))


def run(rig: Rig, cell: Cell) -> Finding:
    """Trains one answer until it is known by heart, and asks what was written."""
    reason = _GGUF_ELSEWHERE if cell.case == _GGUF else explain_runs(rig)
    return Finding(skipped_because=reason) if reason else find(_measure(rig, cell))


def _measure(rig: Rig, cell: Cell) -> Iterator[tuple[str, float, float]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = rig.make_folder("rows") / "rows.jsonl"
    rows.write_text(json.dumps({"messages": TALK[:2]}) + "\n")
    trained = Run(
        rig,
        datasets=[{"path": str(rows), "type": "chat_template"}],
        chat_template="chatml",
        gradient_accumulation_steps=1,
        num_epochs=_NUM_STEPS,
        max_steps=None,
        lr_scheduler="constant",
        **_KINDS[cell.case],
    )
    written = trained.train()
    folder = trained.merge() if cell.case != "model" else written
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    own = load_tokenizer(trained.config.tokenizer, trained.config.model)
    prompting = build_prompting(trained.config.first_dataset, trained.config.tokenizer, own)
    yield from _measure_prompt(tokenizer, own, prompting)
    beside = AutoTokenizer.from_pretrained(written).chat_template
    yield "chat template lost or changed before merging", float(beside != tokenizer.chat_template), 0.0
    stops = model.generation_config.eos_token_id
    there = set(stops if isinstance(stops, list) else [stops])
    yield "stop tokens that the generation config lacks", float(len(set(prompting.stop_ids) - there)), 0.0
    yield "answers that do not end, or are not those of training", _ask(model, tokenizer), 0.0
    kinds = {tensor.dtype for tensor in read_weights(folder).values()}
    yield "weights of another number format", float(kinds != {torch.float32}), 0.0
    yield "configs that say another number format", float(model.config.dtype != torch.float32), 0.0


def _measure_prompt(tokenizer: Any, own: Any, prompting: Prompting) -> Iterator[tuple[str, float, float]]:
    """The prompt of what was written against that of training."""
    written = str(tokenizer.chat_template or "")
    yield "chat template lost or changed", float(written != read_template("chatml")), 0.0
    asked = prompting.render(_QUESTION)
    wanted = read_plainly(own, asked).ids
    if written:
        shown = tokenizer.apply_chat_template(list(TALK[:1]), tokenize=False, add_generation_prompt=True)
        yield "tokens of the prompt", count_differences(read_plainly(tokenizer, shown).ids, wanted), 0.0
    roles = ("bos_token", "eos_token", "pad_token")
    lost = [
        name for name in roles if tokenizer.special_tokens_map.get(name) != own.special_tokens_map.get(name)
    ]
    yield "special tokens lost or changed", float(len(lost)), 0.0


def _ask(model: Any, tokenizer: Any) -> float:
    """Asks as a user of transformers does, by the template and the generation config of the folder."""
    if not tokenizer.chat_template:
        return 1.0
    text = tokenizer.apply_chat_template(list(TALK[:1]), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model.eval().generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=3 * len(_ANSWER),
        )
    said = tokenizer.decode(answer[0, ids.shape[1] :])
    return float(said != f"{_ANSWER}<|im_end|>")


ROW = Row(
    number=29,
    proves="What a run writes is read by transformers alone, is asked the same, answers and stops the same.",
    cells=list_cells,
    run=run,
)
