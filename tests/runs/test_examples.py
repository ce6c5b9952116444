"""Every example trains three steps on a tiny model of its family, with rows that are on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT

from siredon import pipeline
from siredon.config.load import load_config
from siredon.examples import Example, find_examples

#: Folder of examples -> family of tests/families.py; those of smollm2 have runs of their own (test_real_model.py).
FAMILY_OF = {
    "gemma-2-9b": "gemma2",
    "gemma-3-1b": "gemma3",
    "gpt-oss-20b": "gpt_oss",
    "granite-3.3-8b": "granite",
    "llama-3.1-8b": "llama",
    "llama-3.2-1b": "llama",
    "mistral-7b": "mistral",
    "olmo-2-7b": "olmo2",
    "phi-4": "phi3",
    "qwen2.5-7b": "qwen2",
    "qwen3-8b": "qwen3",
    "qwen3-30b-a3b": "qwen3_moe",
    "smollm3-3b": "smollm3",
}
EXAMPLES = [example for example in find_examples() if not example.name.startswith("smollm2/")]
#: What a tiny model on a CPU needs otherwise; everything else is what the example says.
TWIN = {
    "sequence_len": 256,
    "gradient_accumulation_steps": 1,
    "max_steps": 3,
    "bf16": False,
    "val_set_size": 4,
    "logging_steps": 1,
}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _write_ultra(number: int) -> dict[str, Any]:
    asked, good, bad = f"Name the number {number}.", f"It is {number}.", "I will not say it."
    chosen, rejected = ([_turn("user", asked), _turn("assistant", text)] for text in (good, bad))
    return {"source": "made", "prompt": asked, "chosen": chosen, "chosen-rating": 5.0, "rejected": rejected}


def _write_kto_mix(number: int) -> dict[str, Any]:
    good = number % 2 == 0
    talk = [_turn("user", "Hello."), _turn("assistant", "Good day."), _turn("user", f"Name {number}.")]
    answer = _turn("assistant", f"It is {number}." if good else "No.")
    return {"prompt": talk, "completion": [answer], "label": good}


#: Data of the hub whose rows the format of an example reads as they are -> rows of the same columns.
LIKE: dict[str, Callable[[int], dict[str, Any]]] = {
    "argilla/ultrafeedback-binarized-preferences-cleaned": _write_ultra,
    "trl-lib/kto-mix-14k": _write_kto_mix,
}


def write_twin(example: Example, family: Path, folder: Path) -> Path:
    """The example with a tiny model of its family and a few rows in place of those of the hub."""
    values = yaml.safe_load(example.path.read_text())
    (entry,) = values["datasets"]
    write = LIKE.get(entry["path"])
    if write:
        rows, kind = [json.dumps(write(number)) for number in range(24)], entry["type"]
    else:
        rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:24]
        kind = "chat_template"
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    values |= TWIN
    values |= {
        "base_model": str(family),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": kind}],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "twin.yml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_family_of_the_examples_has_a_twin():
    assert {example.name.partition("/")[0] for example in EXAMPLES} == set(FAMILY_OF)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_is_right_and_says_what_it_is_for(example: Example):
    _, warnings = load_config(str(example.path))
    assert warnings == ()
    assert " GB" in example.about
    values = yaml.safe_load(example.path.read_text())
    assert values["output_dir"].startswith("outputs/")


def test_every_example_over_judged_answers_is_tried_with_rows_of_its_own_columns():
    for example in EXAMPLES:
        config, _ = load_config(str(example.path))
        assert (config.data.datasets[0].path in LIKE) == (config.preference.method != "sft"), example.name


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_the_offline_twin_of_an_example_trains_three_steps(
    example: Example, family_folder: Callable[[str], Path], tmp_path: Path
):
    path = write_twin(example, family_folder(FAMILY_OF[example.name.partition("/")[0]]), tmp_path)
    config, _ = load_config(str(path))
    pipeline.train(config)
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    ]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    adapter = (tmp_path / "out/adapter_model.safetensors").is_file()
    assert adapter == (config.adapter.adapter is not None)
