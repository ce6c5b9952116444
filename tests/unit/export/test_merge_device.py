"""A merge says where another kind of device rounded the base in training, and rounds on the CPU what a CPU trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from siredon.config.sections.quantization import QuantizationSection
from siredon.export.merge_device import choose_rounding_device, explain_devices, read_training_device
from siredon.hardware import probe_cpu

CPU = probe_cpu()
GPU = replace(CPU, device="cuda")
FOUR_BITS = QuantizationSection(load_in_4bit=True)


def record(folder: Path, device: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"hardware": {"device": device}}))


@pytest.mark.parametrize(
    ("trained", "hardware", "wanted"),
    [
        ("cpu", CPU, "cpu"),
        ("cpu", GPU, "cpu"),
        ("cuda", CPU, "cpu"),
        ("cuda", GPU, "cuda:0"),
        ("", GPU, "cuda:0"),
        ("", CPU, "cpu"),
    ],
)
def test_what_a_cpu_trained_is_rounded_on_a_cpu(tmp_path: Path, trained: str, hardware, wanted: str):
    if trained:
        record(tmp_path, trained)
    assert choose_rounding_device(tmp_path, hardware) == wanted


def test_a_checkpoint_has_the_record_of_its_run(tmp_path: Path):
    record(tmp_path, "cuda")
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "kept/adapter").mkdir(parents=True)
    assert read_training_device(tmp_path / "checkpoint-4") == "cuda"
    assert read_training_device(tmp_path / "kept/adapter") == ""


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hardware": null}', '{"hardware": {}}'])
def test_a_record_that_says_nothing_is_none(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text(text)
    assert read_training_device(tmp_path) == ""


@pytest.mark.parametrize(
    ("section", "trained", "used", "wanted"),
    [
        (FOUR_BITS, "cuda", "cpu", "on a CPU and was on a GPU"),
        (FOUR_BITS, "cpu", "cuda", "on a GPU and was on a CPU"),
        (FOUR_BITS, "cuda", "cuda:0", ""),
        (FOUR_BITS, "cpu", "cpu", ""),
        (FOUR_BITS, "", "cpu", ""),
        (QuantizationSection(load_in_4bit=True, merge_base="original"), "cuda", "cpu", ""),
        (QuantizationSection(), "cuda", "cpu", ""),
    ],
)
def test_another_kind_of_device_is_named(tmp_path: Path, section, trained: str, used: str, wanted: str):
    if trained:
        record(tmp_path, trained)
    found = explain_devices(section, tmp_path, used)
    assert wanted in found
    assert bool(found) == bool(wanted)


def test_scales_of_blocks_are_what_a_cpu_rounds_otherwise():
    # The figures of docs/merging.md: a GPU takes the nearest of the 256 values, see tests/gpu/test_quantization.py
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import quantize_4bit

    weights = 0.08 * torch.randn(400 * 128, 64, generator=torch.Generator().manual_seed(0))
    num_others = 0
    for weight in weights.chunk(400):
        _, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        apart = weight.abs().amax(1) - state.offset
        nearest = (apart[:, None] / apart.abs().max() - state.state2.code).abs().argmin(1)
        num_others += int((nearest != state.absmax.flatten()).sum())
    assert 0 < num_others < 0.005 * len(weights)
