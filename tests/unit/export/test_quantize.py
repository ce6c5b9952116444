"""Each method of `quantize`: the numbers on the disk are those of its formula, and nothing else was touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import build_model

from siredon.config.sections.quantization import PtqOptions, QatOptions, QuantizationSection
from siredon.errors import ModelError, UnknownPartError
from siredon.evaluate.agreement import compute_logits
from siredon.export.quantize import (
    METHODS,
    Chosen,
    Written,
    check_device,
    choose_method,
    read_layers,
    write_quantized,
)
from siredon.export.quantize_wanted import Quantize
from siredon.export.source import Source
from siredon.hardware import probe_cpu
from siredon.model.quantized import find_rounded, settle_quantized_, taken_for_whole

IDS = list(range(8, 40))
#: Sign, 4 bits of exponent biased by 7, 3 of mantissa; the largest code of each sign is no number.
E4M3 = [(m / 8 if e == 0 else 1 + m / 8) * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8)][:-1]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
Formula = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def nearest(x: torch.Tensor, values: list[float], *, both: bool = True) -> torch.Tensor:
    grid = torch.tensor([*values, *(-value for value in values if both)], dtype=torch.float64)
    return grid[(x.unsqueeze(-1) - grid).abs().argmin(-1)]


def whole_numbers(bits: int, group: int) -> Formula:
    """Symmetric: the largest of a group over half of all codes, less half a one; group 0 is a row."""

    def round_(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        groups = x.unflatten(-1, (-1, group or x.shape[-1]))
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-9) / ((2**bits - 1) / 2)
        codes = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return (codes * scale).flatten(-2), scale.expand_as(groups).flatten(-2)

    return round_


def naive_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return nearest(x / scale, E4M3) * scale, scale.expand_as(x) * 32


def naive_nvfp4(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    whole = x.abs().max() / (448 * 6)
    blocks = x.unflatten(-1, (-1, 16))
    scale = nearest(blocks.abs().amax(-1, keepdim=True) / 6 / whole, E4M3) * whole
    return (nearest(blocks / scale, E2M1) * scale).flatten(-2), (2 * scale).expand_as(blocks).flatten(-2)


def naive_llm_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale, scale.expand_as(x)


def naive_4bit(kind: str) -> Formula:
    def round_(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from bitsandbytes.functional import get_4bit_type

        table = [float(value) for value in get_4bit_type(kind, device="cpu")]
        blocks = x.flatten().unflatten(0, (-1, 64))
        scale = blocks.abs().amax(-1, keepdim=True)
        rounded = nearest(blocks / scale, table, both=False) * scale
        return rounded.reshape(x.shape), (0.5 * scale).expand_as(blocks).reshape(x.shape)

    return round_


#: Method -> its formula, in fp64, with the size of a step; how far numbers may be from it, in steps, where they did not
#: lie half-way between two, as the largest of a group of whole numbers does.  The scales of nf4 and fp4 are in 8 bits
#: themselves, and llm_int8 divides in fp16.
FORMULAS: dict[str, tuple[Formula, float]] = {
    "int8": (whole_numbers(8, 0), 1e-4),
    "int8_int8": (whole_numbers(8, 0), 1e-4),
    "int4": (whole_numbers(4, 32), 1e-4),
    "int4_int8": (whole_numbers(4, 32), 1e-4),
    "fp8": (naive_fp8, 1e-4),
    "nvfp4": (naive_nvfp4, 1e-4),
    "nf4": (naive_4bit("nf4"), 0.05),
    "fp4": (naive_4bit("fp4"), 0.05),
    "llm_int8": (naive_llm_int8, 0.07),
}


@pytest.fixture(scope="module")
def sources(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Source]:
    """A model whose head is its embedding, and one with a head of its own."""
    made = {}
    for tied in (True, False):
        folder = tmp_path_factory.mktemp("whole")
        build_model(len(tokenizer), tied=tied).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[tied] = Source(folder, folder)
    return made


def write(source: Source, folder: Path, method: str, **settings: Any) -> Written:
    chosen = choose_method(QuantizationSection(), Quantize(method, **settings))
    folder.mkdir()
    return write_quantized(source, chosen, read_layers(source, chosen), probe_cpu(), folder)


def read(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    settle_quantized_(model, model.config.quantization_config.quant_method.value)
    return model


def widen(layer: Any) -> torch.Tensor:
    from siredon.model.quantized import QUANTIZERS

    kinds = {"Params4bit": "load_in_4bit", "Int8Params": "load_in_8bit"}
    return QUANTIZERS.load(kinds.get(type(layer.weight).__name__, "load_in_torchao")).widen(layer).double()


def check_numbers(formula: Formula, allowed: float, found: torch.Tensor, weight: torch.Tensor) -> None:
    wanted, step = formula(weight.double())
    off = (found - wanted).abs() / step
    assert off.max() < 1.0 + allowed
    assert (off > allowed).double().mean() < 0.02


@pytest.mark.parametrize("method", FORMULAS)
def test_what_is_on_the_disk_is_what_the_formula_says_and_the_rest_is_as_it_was(
    method: str, sources: dict[bool, Source], tmp_path: Path
):
    source = sources[True]
    written = write(source, tmp_path / "few", method)
    whole = load_file(source.folder / "model.safetensors")
    model = read(written.folder)
    layers = dict(find_rounded(model))
    # 1. Every linear layer, by the formula in fp64
    assert len(layers) == written.num_layers == 14
    for name, layer in layers.items():
        check_numbers(*FORMULAS[method], widen(layer), whole[f"{name}.weight"])
    # 2. Embedding, head and norms
    stored = load_file(written.folder / "model.safetensors")
    kept = [name for name in whole if name.removesuffix(".weight") not in layers]
    assert len(kept) == 6
    assert all(torch.equal(stored[name], whole[name]) for name in kept)
    assert "lm_head.weight" not in stored
    assert model.lm_head.weight is model.model.embed_tokens.weight
    # 3. Read back by plain transformers it is the model in memory, and not the whole one
    assert written.read_back.max_error == 0
    off = (compute_logits(model, IDS) - compute_logits(source.load_model(torch.float32), IDS)).abs().max()
    assert 0.01 < off < 3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("method", "group"), [("int8", None), ("int4", 16), ("int8_int8", 32)])
def test_rounded_embeddings_leave_the_head_as_it_was(
    method: str, group: int | None, tied: bool, sources: dict[bool, Source], tmp_path: Path
):
    source = sources[tied]
    written = write(source, tmp_path / "few", method, group_size=group, quantize_embedding=True)
    whole = load_file(source.folder / "model.safetensors")
    model = read(written.folder)
    head = whole["model.embed_tokens.weight" if tied else "lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)
    assert not model.config.tie_word_embeddings
    assert written.num_layers == 15
    assert sorted(path.name for path in written.folder.glob(".*")) == []
    formula = whole_numbers(8 if "int8" in method else 4, group or 0)
    for name, weight in whole.items():
        if name.endswith(("proj.weight", "embed_tokens.weight")):
            layer = model.get_submodule(name.removesuffix(".weight"))
            check_numbers(formula, 1e-4, layer.weight.dequantize().double(), weight)
    assert written.read_back.max_error == 0
    # An embedding that is looked up is the rounded row
    ids = torch.tensor(IDS)
    assert torch.equal(model.model.embed_tokens(ids), model.model.embed_tokens.weight.dequantize()[ids])


def test_settings_that_a_method_has_not_are_refused_before_anything_is_read():
    empty = QuantizationSection()
    cases = [
        (Quantize(), "neither the command line nor the configuration says how to round"),
        (Quantize("awq"), "`--method awq` is not built: .*\n.*Use `--method gptq`"),
        (Quantize("fp8_static", group_size=32), "`--group-size` has no effect on `--method fp8_static`"),
        (Quantize("int4_fp8"), "no file of safetensors holds them"),
        (Quantize("nf4", group_size=32), "`--group-size` has no effect on `--method nf4`"),
        (Quantize("llm_int8", quantize_embedding=True), "`--quantize-embedding` has no effect"),
        (
            Quantize("nvfp4", group_size=32),
            "`--group-size` has no effect on `--method nvfp4`: the format says",
        ),
        (Quantize("fp8", quantize_embedding=True), "torchao has no embeddings in fp8"),
    ]
    for wanted, message in cases:
        with pytest.raises(ModelError, match=message):
            choose_method(empty, wanted)
    with pytest.raises(UnknownPartError, match=r"'int9' is no quantizer.*\n.*Did you mean 'int8'"):
        choose_method(empty, Quantize("int9"))


@pytest.mark.parametrize("method", ["fp8_fp8", "nvfp4_nvfp4", "mxfp4_mxfp4"])
def test_what_a_cpu_has_no_products_for_is_refused_with_what_works_there(method: str):
    chosen = choose_method(QuantizationSection(), Quantize(method))
    with pytest.raises(
        ModelError, match=rf"`--method {method}` needs an NVIDIA GPU of compute capability"
    ) as caught:
        check_device(chosen, probe_cpu())
    instead = caught.value.fix.split("`")[1].removeprefix("--method ")
    check_device(choose_method(QuantizationSection(), Quantize(instead)), probe_cpu())


def test_the_file_says_the_method_where_the_command_line_does_not(capsys: Any):
    def choose(method: str | None = None, **blocks: Any) -> Chosen:
        return choose_method(QuantizationSection(**blocks), Quantize(method))

    written = choose(quantization=PtqOptions(weight_dtype="float8"))
    assert (written.name, written.origin, written.learned) == ("fp8", "quantization", None)
    qat = QatOptions(weight_dtype="int4", activation_dtype="int8", group_size=16)
    learned = choose(qat=qat)
    assert (learned.name, learned.origin, learned.learned) == ("int4_int8", "qat", qat)
    assert learned.options.weights_per_scale == 16
    assert choose("int8", qat=qat).learned is None
    assert "trained to be rounded by `qat`, and not by `--method int8`" in capsys.readouterr().err
    with pytest.raises(ModelError, match="`qat: int4_fp8` is not built"):
        choose(qat=QatOptions(weight_dtype="int4", activation_dtype="fp8"))


def test_every_pair_of_formats_and_every_part_of_the_shelf_has_the_other():
    from siredon.config.sections.quantization import ROUNDINGS

    pairs = {"_".join(word for word in pair if word) for pair in ROUNDINGS}
    assert pairs | {"nf4", "fp4", "llm_int8", "gptq", "awq", "fp8_static"} == set(METHODS.names())


def test_groups_that_do_not_fit_are_refused_with_those_that_do(sources: dict[bool, Source], tmp_path: Path):
    with pytest.raises(
        ModelError, match=r"`quantization.group_size: 48`: the 64 inputs of .*\n.*: 64, 32, 16"
    ):
        write(sources[True], tmp_path / "few", "int4", group_size=48)


def test_a_folder_that_is_read_back_as_another_model_is_refused(
    sources: dict[bool, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def save_badly(model: Any, folder: Any, **options: Any) -> None:
        model.model.norm.weight.data += 1
        save(model, folder, **options)
        model.model.norm.weight.data -= 1

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_badly)
    with pytest.raises(ModelError, match="is read back as another model"):
        write(sources[True], tmp_path / "few", "int8")


def test_a_model_that_computes_no_numbers_is_refused_before_anything_is_written(
    tokenizer: Any, tmp_path: Path
):
    model = build_model(len(tokenizer))
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    source = Source(tmp_path / "broken", tmp_path / "broken")
    with pytest.raises(ModelError, match=r"computes no numbers: NaN or infinite after 24 of 24 tokens"):
        write(source, tmp_path / "few", "int8")
    assert list((tmp_path / "few").iterdir()) == []


@pytest.mark.parametrize("method", ["int8", "int4", "fp8", "nvfp4", "nf4", "fp4", "llm_int8"])
def test_a_row_of_zeros_stays_one(method: str, tokenizer: Any, tmp_path: Path):
    model = build_model(len(tokenizer))
    name = "model.layers.1.mlp.up_proj"
    model.get_submodule(name).weight.data[5] = 0
    model.save_pretrained(tmp_path / "whole")
    written = write(Source(tmp_path / "whole", tmp_path / "whole"), tmp_path / "few", method)
    layer = read(written.folder).get_submodule(name)
    widened = widen(layer)
    assert (widened[5] == 0).all()
    assert widened.isfinite().all()


def test_the_config_tells_others_how_the_weights_are_held(sources: dict[bool, Source], tmp_path: Path):
    written = write(sources[False], tmp_path / "few", "int8")
    config = json.loads((written.folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    assert config["quantization_config"]["modules_to_not_convert"] == ["lm_head"]
    model = read(written.folder)
    assert model.is_quantized
    with taken_for_whole(model):
        assert not model.is_quantized
    assert model.is_quantized
