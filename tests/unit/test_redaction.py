"""What is taken out of text, and what is not."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from siredon import redaction
from siredon.cli.app import show_crash
from siredon.config.diagnostics import show_github, show_json, show_text
from siredon.config.document import parse_document
from siredon.config.load import check_document
from siredon.config.schema import key_homes
from siredon.redaction import (
    is_secret_name,
    learn_secrets,
    redact,
    redact_command,
    redact_line,
    redact_values,
)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test plants is not known to the next."""
    monkeypatch.setattr(redaction, "_LEARNED", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/a.jsonl: no", "https://***@host/a.jsonl: no"),
        ("https://user@host:8080/a", "https://***@host:8080/a"),
        ("https://host/a?X-Amz-Signature=abc&x=1 (403)", "https://host/a?*** (403)"),
        ("see https://host/a#access_token=abc", "see https://host/a#***"),
        ("https://u:p/a#s?s@host/a", "https://***@host/a"),
        ("postgresql://u:p@host/db", "postgresql://***@host/db"),
        ("oci://bucket@space/a abfs://box@account.net/b", "oci://bucket@space/a abfs://box@account.net/b"),
        ("https://host:80/a@b#part, https://host/what?", "https://host:80/a@b#part, https://host/what?"),
        ("comet_api_key: abc", "comet_api_key: ***"),
        ('{"api_key": "a b", "n": 1}', '{"api_key": ***, "n": 1}'),
        ("password='x y' and more", "password=*** and more"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
        ("with bearer abcdefgh.ijklmnop1", "with bearer ***"),
        ("hf_abcdefghijklmnopqrst in text", "*** in text"),
        ("AKIAABCDEFGHIJKLMNOP, ghp_abcdefghijklmnopqrst", "***, ***"),
        # No secrets: names of keys, placeholders, numbers of tokens
        ("eos_token: </s>, max_tokens: 12, num_tokens=5", "eos_token: </s>, max_tokens: 12, num_tokens=5"),
        ("comet_api_key: ${COMET_API_KEY}", "comet_api_key: ${COMET_API_KEY}"),
        ("hf_use_auth_token: true", "hf_use_auth_token: true"),
        ("the secret of a good model is data", "the secret of a good model is data"),
        (
            "task-0123456789-0123456789-0123 hf_mlflow_log_artifacts",
            "task-0123456789-0123456789-0123 hf_mlflow_log_artifacts",
        ),
    ],
)
def test_secrets_are_known_by_their_shape_and_by_their_name(text: str, shown: str):
    assert redact(text) == shown
    assert redact(shown) == shown  # What is masked stays as it is


def test_the_values_of_secret_variables_are_found_however_they_are_written(monkeypatch: pytest.MonkeyPatch):
    value = 'p/w"d +é-0815'
    for name in ("SOME_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, value)
        spelled = [value, quote(value), quote(value, safe=""), json.dumps({"x": value}), repr(value)]
        spelled.append(base64.b64encode(value.encode()).decode())
        for text in spelled:
            assert "0815" not in redact(f"found {text} here"), (name, text)
            assert base64.b64encode(value.encode()).decode().rstrip("=") not in redact(text)
        monkeypatch.delenv(name)
        assert redact(f"found {value}") == f"found {value}"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    monkeypatch.setenv("SHORT_TOKEN", "12345")
    assert redact("parallel 12345") == "parallel 12345"


def test_what_a_configuration_declares_secret_is_found_in_any_text():
    values: dict[str, Any] = {
        "swanlab_lark_webhook_url": "https://bots.example/hook/f00-ba4",
        "datasets": [{"path": "s3://me:pa%24s-w0rd@host/a?sig=0123456789abcdef&download=true"}],
        "base_model": "models/llama",
    }
    learn_secrets(values, {"swanlab_lark_webhook_url"})
    text = "to https://bots.example/hook/f00-ba4 with pa$s-w0rd, pa%24s-w0rd and 0123456789abcdef for models/llama"
    assert redact(text) == "to *** with ***, *** and *** for models/llama"
    assert redact("download=true") == "download=true"


def test_values_and_command_lines():
    nested = {"a": [{"hub_token": "abc"}, "https://u:p@h/x"], "eos_token": "</s>", "api_key": None, "n": 1}
    assert redact_values(nested) == {
        "a": [{"hub_token": "***"}, "https://***@h/x"],
        "eos_token": "</s>",
        "api_key": None,
        "n": 1,
    }
    words = [
        "siredon",
        "train",
        "c.yml",
        "--comet-api-key",
        "abc",
        "swanlab_api_key=abc",
        "--hub-token=abc",
        "lora_r=8",
    ]
    assert redact_command(words) == [
        *words[:4],
        "***",
        "swanlab_api_key=***",
        "--hub-token=***",
        "lora_r=8",
    ]


def test_every_key_that_is_secret_has_a_name_that_says_so():
    # A file that cannot be read as YAML is shown line by line: there only the name tells.
    homes = key_homes()
    declared = {name for name, info in homes.items() if info.is_secret}
    assert {"comet_api_key", "swanlab_api_key", "swanlab_lark_secret", "swanlab_lark_webhook_url"} == declared
    assert all(map(is_secret_name, declared))
    named = {name for name in homes if is_secret_name(name)}
    assert named - declared == {"hf_use_auth_token"}  # Whether, not which


@pytest.mark.parametrize(
    "text",
    [
        "base_model: m\ncomet_api_key: two words-0815\n",  # Not built: the line is shown
        "base_model: m\ncomet_api_key: 'two words-0815\n",  # No YAML at all
        "base_model: m\ncomet_api_key: [two words-0815]\n",  # Not the right type
        "base_model: two words-0815\ncomet_api_key: two words-0815\nlora_r: two words-0815\n",
        "base_model: m\n? comet_api_key\n: two words-0815\n",
    ],
)
def test_a_report_shows_no_secret_of_the_file(text: str):
    problems = check_document(parse_document("c.yml", text)).diagnostics
    assert problems
    for shown in (show_text(problems), show_json(problems), show_github(problems)):
        assert "0815" not in shown, shown


def test_the_caret_stays_under_what_is_meant():
    text = "base_model: https://u:secret@host/m\nlr: {path: https://u:secret@host/m, lora_q: 1}\n"
    shown = show_text(check_document(parse_document("c.yml", text)).diagnostics)
    lines = shown.splitlines()
    assert "secret" not in shown
    for number, line in enumerate(lines):
        if re.match(r" +\| +\^", line):
            assert line.index("^") <= len(lines[number - 1])


def test_a_line_of_yaml_after_the_name_of_a_secret_is_masked_whole():
    assert redact_line("  - comet_api_key: a b, c  # old") == "  - comet_api_key: ***"
    assert redact_line("eos_token: </s>") == "eos_token: </s>"


def test_a_crash_is_shown_with_its_traceback_and_without_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "plain-words-0815")
    try:
        try:
            raise KeyError("plain-words-0815")
        except KeyError as cause:
            raise RuntimeError("https://u:pass-4711@host/a failed") from cause
    except RuntimeError as error:
        shown = show_crash(error)
    assert "0815" not in shown
    assert "4711" not in shown
    assert "Traceback" in shown
    assert "test_redaction.py" in shown
    assert "RuntimeError: https://***@host/a failed" in shown
