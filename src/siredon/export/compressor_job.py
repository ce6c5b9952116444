"""Run by the Python of another environment, in which llm-compressor is: rounds a model by rows of data.

    python compressor_job.py JOB.json

The job is an object of `model` (a folder), `rows` (a file, `{"input_ids": [...]}` a line), `output` (a folder),
`modifier` (a class of llm-compressor), `settings` (its arguments) and `trusts_code`.  Nothing of Siredon is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def run_job(job: dict[str, Any]) -> None:
    """Reads the model, rounds it, and writes it in the form of compressed-tensors."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers import quantization
    from transformers import AutoModelForCausalLM

    lines = Path(job["rows"]).read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(line)} for line in lines]
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype="auto", trust_remote_code=job["trusts_code"]
    )
    modifiers = {
        "GPTQModifier": quantization.GPTQModifier,
        "QuantizationModifier": quantization.QuantizationModifier,
    }
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=[modifiers[job["modifier"]](**job["settings"])],
        max_seq_length=max(len(row["input_ids"]) for row in rows),
        num_calibration_samples=len(rows),
    )
    model.save_pretrained(job["output"], save_compressed=True)


if __name__ == "__main__":
    run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
