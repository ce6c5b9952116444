"""Weights in few bits: packages, settings, and what they do not go with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siredon.config.model_folder import read_model_config
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.quantization import ROUNDINGS, PtqOptions, QatOptions, QuantizationSection
from siredon.config.stored_bits import find_contradiction, find_lacking
from siredon.registry import suggest


def _check_packages(quantization: QuantizationSection) -> Iterator[Finding]:
    """The package that holds weights in few bits, or rounds them in training, is installed."""
    blocks = {"qat": quantization.qat, "quantization": quantization.quantization}
    asked = [*quantization.ways, *(name for name, options in blocks.items() if options is not None)]
    for name in asked:
        for package, install in find_lacking(name):
            message = f"`{name}` needs the package {package}, which is not installed"
            yield Finding(name, message, f"Install it: `{install}`.")


def _check_gptq(quantization: QuantizationSection, adapter: AdapterSection) -> Iterator[Finding]:
    """LoRA beside weights of GPTQ names its layers.

    Layers of GPTQ are no linear layers to PEFT, so `lora_target_linear` does not find them.
    """
    if quantization.gptq and adapter.lora_target_linear:
        yield Finding(
            "lora_target_linear",
            "`lora_target_linear` does not find layers of GPTQ",
            "Name them: `lora_target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]`.",
        )


_FORMATS = ("bfloat16", "float16", "float32")
_STORAGES = ("uint8", "int8", "float16", "bfloat16", "float32", "float64")
#: Setting of bitsandbytes -> the key whose weights it steers, and its values; None for any of its type.
_SETTINGS: dict[str, tuple[str, type | tuple[type, ...], tuple[Any, ...] | None]] = {
    "bnb_4bit_quant_type": ("load_in_4bit", str, ("nf4", "fp4")),
    "bnb_4bit_use_double_quant": ("load_in_4bit", bool, None),
    "bnb_4bit_compute_dtype": ("load_in_4bit", str, _FORMATS),
    "bnb_4bit_quant_storage": ("load_in_4bit", str, _STORAGES),
    "llm_int8_threshold": ("load_in_8bit", (int, float), None),
    "llm_int8_skip_modules": ("", list, None),
}
#: Settings that frozen weights do not have, and the value at which they may stand in a file all the same.
_OFF = {"llm_int8_has_fp16_weight": False, "llm_int8_enable_fp32_cpu_offload": False}
_KINDS = {str: "a word", bool: "true or false", list: "a list of names"}


def _check_settings(quantization: QuantizationSection) -> Iterator[Finding]:
    """A setting of bitsandbytes exists, has one of its values, and belongs to the number of bits.

    transformers passes over a name that it does not know.  A setting of the other number of bits may stand in the
    file at its default.
    """
    way = next((name for name in ("load_in_4bit", "load_in_8bit") if name in quantization.ways), None)
    for name, value in (quantization.bnb_config_kwargs or {}).items() if way else ():
        place = f"bnb_config_kwargs.{name}"
        if name in _OFF:
            if value is not _OFF[name]:
                message = f"`{name}: {_show(value)}` is for weights that are not frozen in few bits"
                yield Finding(place, message, "Remove it.")
        elif name not in _SETTINGS:
            fix = (
                suggest(name, _SETTINGS).strip() or f"Known: {', '.join(f'`{word}`' for word in _SETTINGS)}."
            )
            yield Finding(place, f"bitsandbytes has no setting `{name}`", fix)
        else:
            yield from _check_setting(place, name, value, str(way))


def _check_setting(place: str, name: str, value: Any, way: str) -> Iterator[Finding]:
    owner, kind, values = _SETTINGS[name]
    fits = isinstance(value, kind) and (isinstance(value, bool) is (kind is bool))
    if owner not in ("", way) and value not in (False, 6.0):
        yield Finding(place, f"`{name}` has no effect with `{way}`", f"Remove it, or write `{owner}: true`.")
    elif not fits or (values is not None and value not in values):
        wanted = ", ".join(f"`{word}`" for word in values or ()) or _KINDS.get(kind, "a number")  # type: ignore[arg-type]
        yield Finding(
            place,
            f"`{name}: {_show(value)}` is not {'one of ' if values else ''}{wanted}",
            f"Write {wanted}.",
        )


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


#: Of the arguments of either class, those that count beside the weights' own config.
_ARGUMENTS = ("dequantize", "modules_to_not_convert")


def _check_arguments(quantization: QuantizationSection) -> Iterator[Finding]:
    """Weights that are stored in FP8 or MXFP4 are widened, and say themselves how they were rounded.

    There is no gradient beside weights held in MXFP4; for FP8 transformers takes kernels from a hub.
    """
    named = quantization.model_quantization_config
    for name, value in (quantization.model_quantization_config_kwargs or {}).items() if named else ():
        place = f"model_quantization_config_kwargs.{name}"
        if name not in _ARGUMENTS:
            fix = suggest(name, _ARGUMENTS).strip() or "Remove it: the weights say it themselves."
            yield Finding(
                place, f"`{name}` of `{named}` has no effect on weights that are stored rounded", fix
            )
        elif name == "dequantize" and value is not True:
            message = f"`dequantize: {_show(value)}`: training beside weights held so is not built"
            yield Finding(place, message, "Write `dequantize: true`, or remove it.")


def _check_random(quantization: QuantizationSection, model: ModelSection) -> Iterator[Finding]:
    """Random weights are not rounded.

    They are made, not read, and rounding takes place as weights are read.
    """
    if model.reinit_weights and quantization.ways:
        way = quantization.ways[0]
        yield Finding(
            way, f"`{way}` does not work with `reinit_weights`", f"Remove `{way}`, or `reinit_weights`."
        )


def _check_stored(quantization: QuantizationSection, model: ModelSection) -> Iterator[Finding]:
    """Weights on this machine are stored as the file says.

    Weights that were quantized by others say so in their `config.json`.
    """
    config = read_model_config(model) if quantization.ways else None
    stored = (config or {}).get("quantization_config") or {}
    if config is not None and isinstance(stored, dict):
        found = find_contradiction(quantization, stored)
        if found is not None:
            yield found


def _check_stored_packages(quantization: QuantizationSection, model: ModelSection) -> Iterator[Finding]:
    """The package that reads the weights of a folder on this machine is installed.

    Weights that were quantized by others say in their `config.json` by what.
    """
    stored = (read_model_config(model) or {}).get("quantization_config")
    if not isinstance(stored, dict) or find_contradiction(quantization, stored) is not None:
        return
    method = str(stored.get("quant_method", "")).lower()
    for package, install in find_lacking(method) if method not in quantization.ways else ():
        message = (
            f"its weights are stored by {method}, which takes the package {package}, which is not installed"
        )
        yield Finding("base_model", message, f"Install it: `{install}`; or name the model's 16-bit weights.")


def _check_start(quantization: QuantizationSection, batch: BatchSection) -> Iterator[Finding]:
    """Rounding begins before training ends.

    Otherwise the run is one without `qat`.
    """
    start = quantization.qat.fake_quant_after_n_steps if quantization.qat is not None else None
    if start is not None and batch.max_steps is not None and start >= batch.max_steps:
        yield Finding(
            "qat.fake_quant_after_n_steps",
            f"rounding would begin after {start} steps, and the run has {batch.max_steps}",
            "Begin earlier.",
        )


def _check_formats(quantization: QuantizationSection) -> Iterator[Finding]:
    """The formats of `qat` are a pair that torchao multiplies.

    What is trained for is then a model that can run.  Weights may be rounded alone, but for `mxfp4`.
    """
    yield from _find_odd_pair("qat", quantization.qat)


def _check_written_formats(quantization: QuantizationSection) -> Iterator[Finding]:
    """The formats of `quantization` are a pair that torchao multiplies, and that a file holds.

    Weights may be rounded alone, but for `mxfp4`.  Layers of `int4` weights beside `fp8` inputs can be trained for,
    with `qat`, and are held by no file of safetensors.
    """
    options = quantization.quantization
    yield from _find_odd_pair("quantization", options)
    if options is not None and options.formats == ("int4", "fp8"):
        yield Finding(
            "quantization.activation_dtype",
            "no file of safetensors holds weights in `int4` beside inputs in `fp8`",
            "Use `activation_dtype: int8`, or leave it out.",
        )


def _find_odd_pair(key: str, options: QatOptions | PtqOptions | None) -> Iterator[Finding]:
    if options is None or options.formats in ROUNDINGS:
        return
    weights, inputs = options.formats
    fitting = [pair[1] for pair in ROUNDINGS if pair[0] == weights]
    shown = ", ".join("none" if word is None else f"`{word}`" for word in fitting)
    named = "no `activation_dtype`" if inputs is None else f"`activation_dtype: {options.activation_dtype}`"
    yield Finding(
        f"{key}.{'weight_dtype' if inputs is None else 'activation_dtype'}",
        f"torchao has no layer with `weight_dtype: {options.weight_dtype}` and {named}",
        f"`activation_dtype` with `weight_dtype: {weights}`: {shown}.",
    )


def _check_group(quantization: QuantizationSection) -> Iterator[Finding]:
    """`group_size` of `qat` is that of the format, where the format says it.

    8-bit floats have a scale for each row; `nvfp4` one for 16 weights, `mxfp4` for 32, and `int4` beside inputs in
    `fp8` for 128.
    """
    yield from _find_odd_group("qat", quantization.qat)


def _check_written_group(quantization: QuantizationSection) -> Iterator[Finding]:
    """`group_size` of `quantization` is that of the format, where the format says it.

    8-bit floats have a scale for each row; `nvfp4` one for 16 weights, `mxfp4` for 32, and `int4` beside inputs in
    `fp8` for 128.
    """
    yield from _find_odd_group("quantization", quantization.quantization)


def _find_odd_group(key: str, options: QatOptions | PtqOptions | None) -> Iterator[Finding]:
    fixed = None if options is None else ROUNDINGS.get(options.formats)
    if options is None or fixed is None or "group_size" not in options.model_fields_set:
        return
    if options.group_size in (None, fixed):
        return
    weights, inputs = options.formats
    beside = "" if inputs in (None, weights) else f" beside inputs in `{inputs}`"
    if fixed:
        message, fix = (
            f"{fixed} weights share a scale in `{weights}`{beside}",
            f"Write {fixed}, or remove it.",
        )
    else:
        message, fix = (
            f"`group_size` has no effect: all weights of a row share a scale in `{weights}`",
            "Remove it.",
        )
    yield Finding(f"{key}.group_size", message, fix)


def _check_tables(quantization: QuantizationSection) -> Iterator[Finding]:
    """`qat` rounds embeddings to whole numbers.

    torchao has no embeddings in floats of few bits.
    """
    yield from _find_odd_tables("qat", quantization.qat)


def _check_written_tables(quantization: QuantizationSection) -> Iterator[Finding]:
    """`quantization` rounds embeddings to whole numbers.

    torchao has no embeddings in floats of few bits.
    """
    yield from _find_odd_tables("quantization", quantization.quantization)


def _find_odd_tables(key: str, options: QatOptions | PtqOptions | None) -> Iterator[Finding]:
    if options is not None and options.quantize_embedding and options.formats[0] not in ("int4", "int8"):
        yield Finding(
            f"{key}.quantize_embedding",
            f"torchao has no embeddings in `{options.weight_dtype}`",
            "Remove `quantize_embedding`, or write `weight_dtype: int4` or `int8`.",
        )


_LORA = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
_QLORA = _LORA.replace("lora\n", "qlora\n", 1) + "load_in_4bit: true\n"

RULES = (
    Rule(
        "SD0560",
        _check_packages,
        wrong=_LORA + "load_in_torchao: int8",
        right=_LORA,
        portable=False,
    ),
    Rule(
        "SD0561",
        _check_settings,
        wrong=_QLORA + "bnb_config_kwargs:\n  bnb_4bit_quant_typ: fp4",
        right=_QLORA + "bnb_config_kwargs:\n  bnb_4bit_quant_type: fp4",
    ),
    Rule(
        "SD0562",
        _check_arguments,
        wrong="model_quantization_config: Mxfp4Config\nmodel_quantization_config_kwargs:\n  dequantize: false",
        right="model_quantization_config: Mxfp4Config\nmodel_quantization_config_kwargs:\n  dequantize: true",
    ),
    Rule(
        "SD0563",
        _check_random,
        wrong="model_quantization_config: Mxfp4Config\nreinit_weights: true",
        right="reinit_weights: true",
    ),
    Rule(
        "SD0564",
        _check_stored,
        wrong="base_model: models/gpt-oss\nmodel_quantization_config: FineGrainedFP8Config",
        right="model_quantization_config: Mxfp4Config",
        portable=False,
    ),
    Rule(
        "SD0565",
        _check_start,
        wrong="max_steps: 100\nqat:\n  fake_quant_after_n_steps: 100",
        right="max_steps: 100\nqat:\n  fake_quant_after_n_steps: 50",
    ),
    Rule(
        "SD0566",
        _check_gptq,
        wrong=_LORA + "gptq: true",
        right=_LORA + "load_in_8bit: true",
        portable=False,
    ),
    Rule(
        "SD0710",
        _check_formats,
        wrong="qat:\n  weight_dtype: fp8\n  activation_dtype: int8",
        right="qat:\n  weight_dtype: fp8\n  activation_dtype: fp8",
    ),
    Rule(
        "SD0711",
        _check_group,
        wrong="qat:\n  weight_dtype: nvfp4\n  group_size: 32",
        right="qat:\n  weight_dtype: nvfp4\n  group_size: 16",
    ),
    Rule(
        "SD0712",
        _check_tables,
        wrong="qat:\n  weight_dtype: fp8\n  quantize_embedding: true",
        right="qat:\n  weight_dtype: int8\n  quantize_embedding: true",
    ),
    Rule(
        "SD0870",
        _check_written_formats,
        wrong="quantization:\n  weight_dtype: fp8\n  activation_dtype: int8",
        right="quantization:\n  weight_dtype: fp8\n  activation_dtype: fp8",
    ),
    Rule(
        "SD0871",
        _check_written_group,
        wrong="quantization:\n  weight_dtype: nvfp4\n  group_size: 32",
        right="quantization:\n  weight_dtype: nvfp4\n  group_size: 16",
    ),
    Rule(
        "SD0872",
        _check_written_tables,
        wrong="quantization:\n  weight_dtype: fp8\n  quantize_embedding: true",
        right="quantization:\n  weight_dtype: int8\n  quantize_embedding: true",
    ),
    Rule(
        "SD0713",
        _check_stored_packages,
        wrong="base_model: models/gptq",
        right=_QLORA,
        portable=False,
    ),
)
