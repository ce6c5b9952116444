"""The branches of the rules about weights in few bits that their examples do not reach."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.texts import check

LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
QLORA = LORA.replace("adapter: lora", "adapter: qlora\nload_in_4bit: true")
KWARGS = QLORA + "bnb_config_kwargs:\n  "
EIGHT = LORA + "load_in_8bit: true\nbnb_config_kwargs:\n  "


def found(text: str) -> list[tuple[str, str, str]]:
    return [(problem.code, problem.key, problem.fix) for problem in check(text).diagnostics]


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        (KWARGS + "bnb_4bit_quant_typ: nf4\n", "bnb_4bit_quant_typ", "Did you mean `bnb_4bit_quant_type`?"),
        (KWARGS + "bnb_4bit_quant_type: nf5\n", "bnb_4bit_quant_type", "Write `nf4`, `fp4`."),
        (KWARGS + "bnb_4bit_use_double_quant: 1\n", "bnb_4bit_use_double_quant", "Write true or false."),
        (KWARGS + "bnb_4bit_compute_dtype: bf16\n", "bnb_4bit_compute_dtype", "Write `bfloat16`"),
        (KWARGS + "llm_int8_has_fp16_weight: true\n", "llm_int8_has_fp16_weight", "Remove it."),
        (
            KWARGS + "llm_int8_threshold: 5.0\n",
            "llm_int8_threshold",
            "Remove it, or write `load_in_8bit: true`.",
        ),
        (EIGHT + "llm_int8_threshold: high\n", "llm_int8_threshold", "Write a number."),
        (
            EIGHT + "bnb_4bit_quant_type: nf4\n",
            "bnb_4bit_quant_type",
            "Remove it, or write `load_in_4bit: true`.",
        ),
        (EIGHT + "llm_int8_skip_modules: q_proj\n", "llm_int8_skip_modules", "Write a list of names."),
    ],
)
def test_a_setting_of_bitsandbytes_is_known_fits_and_has_an_effect(text: str, key: str, fix: str):
    ((code, at, way_out),) = found(text)
    assert (code, at) == ("SD0561", f"bnb_config_kwargs.{key}")
    assert way_out.startswith(fix)


@pytest.mark.parametrize(
    "text",
    [
        KWARGS
        + "bnb_4bit_quant_type: nf4\n  bnb_4bit_use_double_quant: true\n  llm_int8_has_fp16_weight: false\n",
        EIGHT + "llm_int8_threshold: 0\n  llm_int8_skip_modules: [q_proj]\n",
        LORA + "load_in_torchao: fp8\nmerge_base: original\n",
    ],
)
def test_settings_that_files_of_axolotl_have_pass(text: str):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LORA + "load_in_torchao: int4\n", []),
        ("load_in_torchao: int8\n", [("SD0301", "load_in_torchao")]),
        (QLORA + "load_in_torchao: int8\n", [("SD0302", "load_in_torchao")]),
        (LORA + "merge_base: original\n", [("SD0303", "merge_base")]),
        (
            "model_quantization_config: FineGrainedFP8Config\nmodel_quantization_config_kwargs:\n"
            "  weight_block_size: [64, 64]\n",
            [("SD0562", "model_quantization_config_kwargs.weight_block_size")],
        ),
    ],
)
def test_ways_of_few_bits_are_refused_where_they_cannot_work(text: str, expected: list[tuple[str, str]]):
    assert [(code, key) for code, key, _ in found(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (QLORA.replace("load_in_4bit", "gptq"), {"SD0301", "SD0566"}),
        (QLORA + "gptq: true\n", {"SD0302", "SD0566"}),
        (LORA + "gptq: true\n", {"SD0566"}),
        ("gptq: true\n", {"SD0301"}),
        (LORA.replace("lora_target_linear: true", "lora_target_modules: [q_proj]") + "gptq: true\n", set()),
    ],
)
def test_weights_of_gptq_have_an_adapter_on_named_layers(text: str, expected: set[str]):
    # Whether their packages are installed is another rule.
    assert {code for code, _, _ in found(text)} - {"SD0560"} == expected


@pytest.mark.parametrize(
    ("stored", "text", "fix"),
    [
        ({}, "model_quantization_config: Mxfp4Config\n", "Round them as they are read: `load_in_4bit: true`"),
        ({"quant_method": "mxfp4"}, QLORA, "Write `model_quantization_config: Mxfp4Config`"),
        (
            {"quant_method": "fp8"},
            "model_quantization_config: Mxfp4Config\n",
            "Write `model_quantization_config: FineGrainedFP8Config`",
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, QLORA, "Write `load_in_8bit: true`"),
        ({"quant_method": "awq"}, QLORA, "Remove `load_in_4bit`."),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, QLORA, None),
        ({"quant_method": "mxfp4"}, "model_quantization_config: Mxfp4Config\n", None),
        ({"quant_method": "mxfp4"}, "", None),
        ({}, QLORA, None),
    ],
)
def test_weights_on_this_machine_are_stored_as_the_file_says(
    tmp_path: Path, stored: dict[str, Any], text: str, fix: str | None
):
    config = {"model_type": "llama", "quantization_config": stored} if stored else {"model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    data = "datasets:\n  - path: rows.jsonl\n    type: alpaca\nlearning_rate: 1e-4\n"
    problems = found_whole(f"base_model: {tmp_path}\n{data}{text}")
    assert [code for code, _, _ in problems] == ([] if fix is None else ["SD0564"])
    assert fix is None or problems[0][2].startswith(fix)


def found_whole(text: str) -> list[tuple[str, str, str]]:
    return [(problem.code, problem.key, problem.fix) for problem in check(text, start="").diagnostics]


@pytest.mark.parametrize(
    ("text", "package"), [(QLORA, "bitsandbytes"), (LORA + "load_in_torchao: int8\n", "torchao")]
)
def test_a_package_that_is_not_installed_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, text: str, package: str
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
    )
    ((code, _, fix),) = found(text)
    assert (code, fix) == ("SD0560", "Install it: `pip install 'siredon[quantization]'`.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "weight_dtype: int4\n  activation_dtype: int4",
            ("SD0710", "`activation_dtype` with `weight_dtype: int4`: none"),
        ),
        ("weight_dtype: mxfp4", ("SD0710", "`activation_dtype` with `weight_dtype: mxfp4`: `mxfp4`.")),
        (
            "weight_dtype: int4\n  activation_dtype: fp8\n  group_size: 32",
            ("SD0711", "Write 128, or remove it."),
        ),
        ("weight_dtype: float8\n  group_size: 32", ("SD0711", "Remove it.")),
        ("weight_dtype: nvfp4\n  quantize_embedding: true", ("SD0712", "Remove `quantize_embedding`")),
        ("weight_dtype: float8_e4m3fn\n  activation_dtype: float8", None),
        ("weight_dtype: int4\n  activation_dtype: fp8\n  quantize_embedding: true", None),
    ],
)
def test_formats_of_training_for_rounding_are_those_of_a_layer(text: str, expected: tuple[str, str] | None):
    problems = [(code, fix) for code, _, fix in found(f"qat:\n  {text}\n")]
    assert len(problems) == (expected is not None)
    assert expected is None or (problems[0][0] == expected[0] and problems[0][1].startswith(expected[1]))


def test_what_no_file_holds_is_trained_for_and_not_written():
    formats = "weight_dtype: int4\n  activation_dtype: fp8\n"
    assert [code for code, *_ in found(f"qat:\n  {formats}")] == []
    ((code, key, fix),) = found(f"quantization:\n  {formats}")
    assert (code, key) == ("SD0870", "quantization.activation_dtype")
    assert fix == "Use `activation_dtype: int8`, or leave it out."
    assert [code for code, *_ in found("quantization:\n  weight_dtype: int4\n")] == []
