"""The card from the records beside it; which files belong to an artifact; what a secret in one of them looks like."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from siredon.export.card import build_card, find_state, write_card
from siredon.export.card_text import table
from siredon.export.contents import list_contents
from siredon.export.origin import find_hub_id, read_license
from siredon.redaction import find_secrets

SECRETS = {
    "comet_api_key": "comet yaml key 1618",
    "note": "hf_abcdefghijklmnopqrstuvwxyz",
    "base_model_config": "https://me:pa55word@models.example/config?X-Amz-Signature=0815abcdef",
}


def write_run(folder: Path, kind: str = "adapter", **record: Any) -> Path:
    """A run of which only the records are there."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "base_model": "owner/base",
        "datasets": [
            {"path": "owner/rows", "type": "alpaca"},
            {"path": str(folder / "mine|own.jsonl"), "type": "alpaca"},
        ],
        "adapter": "lora",
        "learning_rate": 1e-4,
        **record.pop("given", {}),
    }
    count = {"source": "owner/rows", "num_rows": 1234, "num_tokens": 56789, "num_targets": 4321}
    found = {
        "siredon": "0.1.0",
        "started": "2026-01-02T03:04:05+00:00",
        "folder": str(folder.parent),
        "given": given,
        "data": {"fingerprint": "f" * 24, "sources": {"1: a": "a" * 64, "2: b": "b" * 64}, "counts": [count]},
        "num_steps": 10,
        "finished": {"num_steps": 10, "num_tokens": 1000, "seconds": 3661.4},
        **record,
    }
    (folder / "run.json").write_text(json.dumps(found))
    name = "adapter_model" if kind == "adapter" else "model"
    (folder / f"{name}.safetensors").write_bytes(bytes(8))
    settings = {"base_model_name_or_path": "owner/base"} if kind == "adapter" else {}
    (folder / ("adapter_config.json" if kind == "adapter" else "config.json")).write_text(
        json.dumps(settings)
    )
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIREDON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_head_names_what_is_on_the_hub_and_how_it_is_related(tmp_path: Path):
    run = write_run(tmp_path / "run")
    data = ModelCard(build_card(run)).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("owner/base", "adapter", "peft")
    assert data.datasets == ["owner/rows"]
    assert data.license is None
    whole = write_run(tmp_path / "whole", "model", given={"adapter": None})
    assert ModelCard(build_card(whole)).data.base_model_relation == "finetune"
    merged = write_run(tmp_path / "merged", "model")
    adapters = [{"folder": "/a/b/one", "weight": 1.0}, {"folder": "/a/b/two", "weight": 0.5}]
    for count, relation in ((1, "finetune"), (2, "merge")):
        (merged / "merge.json").write_text(json.dumps({"adapters": adapters[:count], "verified": None}))
        assert ModelCard(build_card(merged)).data.base_model_relation == relation
    text = build_card(merged)
    assert "Merged were `one` x 1, `two` x 0.5." in text
    assert "was not held against base and adapter" in text


def test_rows_tokens_and_what_nobody_counted(tmp_path: Path):
    text = build_card(write_run(tmp_path / "run"))
    assert "| [owner/rows](https://huggingface.co/datasets/owner/rows) | 1,234 | 56,789 | 4,321 |" in text
    assert (
        "| `mine\\|own.jsonl` | not counted | not counted | not counted | unknown | `bbbbbbbbbbbbbbbb` |"
        in text
    )
    assert "| time | 1:01:01 (h:mm:ss) |" in text
    cells = MarkdownIt("commonmark").enable("table").render(table(["a", " b"], [["x|y", "1"]]))
    assert cells.count("<td") == 2


def test_figures_that_are_one_are_one_line_and_factors_of_one_are_none(tmp_path: Path):
    run = tmp_path / "run"

    def write(micro: int, num_ranks: int) -> None:
        batch = {"micro_batch_size": micro, "gradient_accumulation_steps": 4}
        write_run(run, config={"batch": batch}, num_ranks=num_ranks)

    write(2, 1)
    losses = {0: 3.0, 5: 1.0, 10: 2.0}
    for kept, shown in (
        ((0, 5, 10), ["first | 0", "last | 10", "best | 5"]),
        ((0, 5), ["first | 0", "last and best | 5"]),
        ((5, 10), ["first and best | 5", "last | 10"]),
    ):
        lines = [json.dumps({"step": step, "eval_loss": losses[step]}) for step in kept]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        text = build_card(run)
        assert re.findall(r"\| validation, (.*? \| \d+)", text) == shown
    (run / "metrics.jsonl").write_text('{"step": 5, "eval_loss": 1.0}\n')
    assert "| validation | 5 | 1.0000 |" in build_card(run)
    assert "| sequences a step | 8: 2 a device x 4 accumulated |" in text
    write(1, 2)
    assert "| sequences a step | 8: 4 accumulated x 2 devices |" in build_card(run)
    write(1, 1)
    assert "| sequences a step | 4 |" in build_card(run)


@pytest.mark.parametrize(
    ("precision", "has_bf16", "shown"),
    [
        ({"bf16": "auto"}, True, "bf16 (auto)"),
        ({"bf16": "auto"}, False, "fp32 (auto)"),
        ({"bf16": True, "fp8": True}, True, "bf16, products of layers in fp8"),
        ({"bf16": "auto", "fp16": True}, True, "fp16"),
        ({"bf16": False}, True, "fp32"),
        ({"bf16": "full"}, True, "bfloat16, all of it"),
        ({"bf16": "auto", "float32": True}, True, "float32, all of it"),
    ],
)
def test_the_number_format_is_that_of_the_run(precision: Any, has_bf16: bool, shown: str, tmp_path: Path):
    run = write_run(tmp_path / "run", config={"precision": precision}, hardware={"has_bf16": has_bf16})
    assert f"| number format | {shown} |" in build_card(run)


def test_the_packages_that_the_weights_take_are_named(tmp_path: Path):
    run = write_run(tmp_path / "run", config={"quantization": {"load_in_4bit": True}})
    assert "`pip install transformers peft bitsandbytes`" in build_card(run)
    whole = write_run(tmp_path / "whole", "model")
    assert "`pip install transformers`:" in build_card(whole)
    (whole / "quantize.json").write_text(json.dumps({"method": "gptq", "library": "llm-compressor"}))
    assert "`pip install transformers compressed-tensors`" in build_card(whole)


def test_licences_are_those_of_cards_and_else_unknown(tmp_path: Path, own_cache: Path):
    run = write_run(tmp_path / "run")
    text = build_card(run)
    assert "- base, [owner/base](https://huggingface.co/owner/base): unknown" in text
    base = own_cache / "models/owner/base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: lab\nlicense_link: https://lab.example\n---\n"
    )
    assert "[owner/base](https://huggingface.co/owner/base): [lab](https://lab.example)" in build_card(run)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "README.md").write_text("---\nlicense: [mit, cc-by-4.0]\n---\n# Rows\n")
    write_run(run, given={"datasets": [{"path": "rows", "type": "alpaca"}]})
    assert "- data, `rows`: mit, cc-by-4.0" in build_card(run)
    for head in ("# No head\n", "---\n- a list\n---\n", "---\n{ broken\n---\n"):
        (rows / "README.md").write_text(head)
        assert read_license(rows / "README.md") == ("unknown", "")


def test_an_id_of_the_hub_is_known_by_name_or_by_its_place_in_a_cache(tmp_path: Path, own_cache: Path):
    (tmp_path / "data/rows").mkdir(parents=True)
    snapshot = tmp_path / "hub/models--owner--a.b-c/snapshots/0123"
    for name, hub_id in (
        ("owner/name", "owner/name"),
        ("data/rows", ""),
        ("./owner/name", ""),
        ("https://owner/name", ""),
        (str(own_cache / "models/owner/name"), "owner/name"),
        (str(snapshot), "owner/a.b-c"),
        (str(tmp_path / "elsewhere"), ""),
    ):
        assert find_hub_id(name, tmp_path) == hub_id, name


def test_no_secret_and_no_folder_of_this_machine_is_in_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LAB_PASSWORD", "lab-password-2718")
    given = {
        **SECRETS,
        "output_dir": str(tmp_path / "run"),
        "dataset_prepared_path": "deep/inside/prepared.d",
        "default_system_message": f"Look into {Path.home()}/notes/ and say lab-password-2718",
        "chat_template_jinja": "{{ a }}\n```\n{{ b }}\n",
    }
    text = build_card(write_run(tmp_path / "run", given=given))
    for secret in (
        "comet yaml key",
        "hf_abc",
        "pa55word",
        "0815abcdef",
        "lab-password",
        str(tmp_path),
        "deep/inside",
    ):
        assert secret not in text, secret
    assert f"{Path.home()}/" not in text
    assert "comet_api_key: '***'" in text or "comet_api_key: ***" in text
    assert "output_dir: run" in text
    tokens = MarkdownIt("commonmark").parse(text[text.index("## Configuration") :])
    assert [token.type for token in tokens if token.type == "fence"] == ["fence"]


def test_reports_that_lie_beside_are_told(tmp_path: Path):
    run = write_run(tmp_path / "run", "model")
    agreement = {"num_tokens": 99, "max_error": 0.5, "mean_error": 0.01, "kl": 0.0021, "same_token": 0.98}
    report = {
        "method": "int8",
        "described": "weights in int8, a scale for each row",
        "library": "torchao 0.18.0",
        "bytes_before": 2_000_000,
        "bytes_after": 1_100_000,
        "read_back": {**agreement, "kl": 0.7},
        "checked": {"before": {"loss": 1.5}, "after": {"loss": 1.75}, "agreement": agreement},
    }
    (run / "quantize.json").write_text(json.dumps(report))
    results = {
        "results": [
            {
                "model": "tuned",
                "split": "validation",
                "source": "/a/b/rows.jsonl",
                "rows": 1200,
                "target_tokens": 5,
                "loss": 1.25,
                "perplexity": 3.5,
                "rougeL": 0.5,
            }
        ]
    }
    (run / "evaluation").mkdir()
    (run / "evaluation/results.json").write_text(json.dumps(results))
    mark = {
        "model": "tuned",
        "task": "arc",
        "metric": "acc",
        "value": 0.5,
        "stderr": 0.01,
        "num_fewshot": None,
    }
    for time, value in (("2026-01-01", 0.1), ("2026-01-02", 0.5)):
        (run / "lm_eval_results" / time).mkdir(parents=True)
        marks = {"results": [{**mark, "value": value}]}
        (run / "lm_eval_results" / time / "results.json").write_text(json.dumps(marks))
    text = build_card(run)
    assert ModelCard(text).data.base_model_relation == "quantized"
    assert "\nWeights in int8, a scale for each row, by torchao 0.18.0.\n" in text
    assert "| weights on disk | 2.0 MB | 1.1 MB |" in text
    assert "| loss | 1.5000 | 1.7500 |" in text
    assert "`pip install transformers torchao`" in text
    assert "0.7 |" not in text  # what was read back is not what it cost
    assert "| perplexity | " not in text.partition("## Evaluation")[0]
    assert "| Kullback-Leibler divergence, nats a token | 0.0021 |" in text
    assert "| tuned | validation | rows.jsonl | 1,200 | 1.2500 | 3.5000 | 0.5000 |" in text
    assert "| tuned | arc | acc | 0 | 0.5000 ± 0.0100 |" in text
    (run / "quantize.json").write_text(json.dumps({"method": "int8", "checked": None}))
    assert "The rounded model was not held against the one before." in build_card(run)
    (run / "quantize.json").write_text("{ torn")
    assert "Quantization" not in build_card(run)


def test_a_run_that_goes_on_and_an_adapter_from_elsewhere_have_cards_too(tmp_path: Path):
    run = write_run(tmp_path / "run", finished=None)
    (run / "metrics.jsonl").write_text(
        '{"step": 0, "eval_loss": 2.0}\n{"step": 5, "loss": 1.5}\n{"step": 6, "lo'
    )
    text = build_card(run)
    assert "**Training has not ended**: these are weights of about step 5 of 10." in text
    assert "| training, last | 5 | 1.5000 | 4.4817 |" in text
    (run / "run.json").unlink()
    text = build_card(run)
    assert "An adapter for [owner/base]" in text
    assert "How it was trained is not recorded beside it." in text
    assert "## Data" not in text


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("# Mine\n", "edited"),
        ("# Model Card for Model ID\n\n[More Information Needed]\n", "ours"),
        (None, "missing"),
    ],
)
def test_a_card_of_somebody_else_is_left_and_the_form_of_peft_is_not(
    tmp_path: Path, text: str | None, state: str
):
    run = write_run(tmp_path / "run")
    if text is not None:
        (run / "README.md").write_text(text)
    assert find_state(run / "README.md") == state
    assert (write_card(run) is None) == (state == "edited")
    assert find_state(run / "README.md") == ("edited" if state == "edited" else "ours")


def test_only_what_belongs_to_a_model_is_listed(tmp_path: Path):
    run = write_run(tmp_path / "run", "model")
    names = ("tokenizer.json", "merges.txt", "modeling_x.py", "LICENSE", "model-00001-of-00002.safetensors")
    others = (
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        "metrics.jsonl",
        "samples.jsonl",
        "notes.txt",
        ".env",
    )
    others += ("adapter_start.safetensors", "model-q8_0.gguf", ".writing-x.safetensors")
    for name in (*names, *others):
        (run / name).write_text("{}")
    (run / "checkpoint-4").mkdir()
    (run / "checkpoint-4/model.safetensors").write_text("{}")
    found = list_contents(run)
    assert {item.name for item in found.items} == {"config.json", "model.safetensors", *names}
    assert set(found.left) == {name for name in others if name[0] != "."} | {"checkpoint-4", "run.json"}


@pytest.mark.parametrize(
    ("line", "is_secret"),
    [
        ("token: hf_abcdefghijklmnopqrstuv", True),
        ("see https://me:s3cret@host.example/x", True),
        ("api_key = 'a1b2c3d4e5'", True),
        ("the value is known-value-4711 here", True),
        ("api_key = config.api_key", False),
        ("password: ***", False),
        ('"password": 4711, "token": 12', False),
        ("https://host.example/x?page=2", False),
        ("access_token=access_token", False),
        ("eos_token: </s>", False),
    ],
)
def test_a_secret_is_told_from_words_about_secrets(
    monkeypatch: pytest.MonkeyPatch, line: str, is_secret: bool
):
    monkeypatch.setenv("LAB_TOKEN", "known-value-4711")
    assert list(find_secrets(f"first\n{line}\nlast")) == ([2] if is_secret else [])
    assert list(find_secrets("api_key = 'a1b2c3d4e5'", by_name=False)) == []
