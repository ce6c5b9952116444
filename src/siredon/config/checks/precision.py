"""Number formats that go together."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from siredon.config.idle import find_useless_keys, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.distributed import FsdpSection
from siredon.config.sections.optimizer import OptimizerSection
from siredon.config.sections.precision import PrecisionSection
from siredon.config.sections.quantization import QuantizationSection


def _check_formats(precision: PrecisionSection) -> Iterator[Finding]:
    """A run has one number format.

    `bf16` and `bfloat16` ask for bfloat16, `fp16` and `float16` for float16, `float32` for float32.
    """
    asked = (
        ("bf16", precision.bf16 in (True, "full"), "bfloat16"),
        ("bfloat16", precision.bfloat16, "bfloat16"),
        ("fp16", precision.fp16, "float16"),
        ("float16", precision.float16, "float16"),
        ("float32", precision.float32, "float32"),
    )
    chosen = [(name, number_format) for name, is_set, number_format in asked if is_set]
    names = [name for name, _ in chosen]
    if names == ["bf16", "fp16"] and precision.bf16 is True:  # SD0105 says so
        return
    if len({number_format for _, number_format in chosen}) > 1:
        first, last = chosen[0], chosen[-1]
        yield Finding(
            last[0],
            f"`{first[0]}` asks for {first[1]}, `{last[0]}` for {last[1]}",
            f"Keep one of {', '.join(f'`{name}`' for name in names)}.",
        )


def _check_float8(precision: PrecisionSection, quantization: QuantizationSection) -> Iterator[Finding]:
    """8-bit products are made of whole weights, beside bfloat16, by torchao.

    What is no product stays in bfloat16.  Weights that are held in few bits have products of their own, and so have
    layers that `qat` rounds.
    """
    if not precision.fp8:
        return
    if importlib.util.find_spec("torchao") is None:
        message = "`fp8: true` needs the package torchao, which is not installed"
        yield Finding("fp8", message, "Install it: `pip install 'siredon[quantization]'`.")
    beside = {"fp16": precision.fp16, "float16": precision.float16, "float32": precision.float32}
    beside |= {"qat": quantization.qat is not None, **dict.fromkeys(quantization.ways, True)}
    for name in (name for name, is_set in beside.items() if is_set):
        yield Finding(name, f"`{name}` does not work with `fp8: true`", f"Remove `{name}`, or `fp8`.")


def _check_compiled(precision: PrecisionSection, compile: CompileSection) -> Iterator[Finding]:
    """8-bit products are compiled.

    Rounding to 8 bits is work of its own; only where the compiler fuses it with the products is the run faster
    than in 16 bits.
    """
    if precision.fp8 and not compile.torch_compile:
        yield Finding(
            "fp8",
            "`fp8` without `torch_compile` is slower than `bf16`",
            "Add `torch_compile: true`.",
            "warning",
        )


def _check_recomputed(precision: PrecisionSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """8-bit products are not recomputed by FSDP.

    Every product, and the rounding before it, is done twice, which takes what 8 bits have won.
    """
    options = fsdp.fsdp_config
    if precision.fp8 and options is not None and options.activation_checkpointing:
        yield Finding(
            "fsdp_config.activation_checkpointing",
            "`activation_checkpointing` does the products of `fp8` twice: the run may be slower than in `bf16`",
            "Set `activation_checkpointing: false` if memory allows.",
            "warning",
        )


def _check_gathered(precision: PrecisionSection, fsdp: FsdpSection) -> Iterator[Finding]:
    """Weights are gathered in 8 bits by FSDP2, for 8-bit products.

    `fp8_enable_fsdp_float8_all_gather` has nothing to act on without `fp8` and an `fsdp_config` of version 2;
    without a version it is 1.
    """
    if not precision.fp8_enable_fsdp_float8_all_gather:
        return
    options = fsdp.fsdp_config
    is_second = options is not None and 2 in (fsdp.fsdp_version, options.fsdp_version)
    lacks = [
        name
        for name, is_there in (
            ("`fp8: true`", precision.fp8),
            ("`fsdp_config` with `fsdp_version: 2`", is_second),
        )
        if not is_there
    ]
    if lacks:
        yield Finding(
            "fp8_enable_fsdp_float8_all_gather",
            f"`fp8_enable_fsdp_float8_all_gather` needs {' and '.join(lacks)}",
            f"Add {' and '.join(lacks)}, or remove the key.",
        )


def _check_rounding(quantization: QuantizationSection, adapter: AdapterSection) -> Iterator[Finding]:
    """Training for rounding (`qat`) changes all weights, which are whole.

    It rounds weights as they are used; those that are frozen under an adapter, or that are held in few bits
    already, cannot learn from it.  And what LoRA adds beside a layer would not be rounded with it, as the merged
    weight will be.
    """
    if quantization.qat is None:
        return
    switches = (
        ("adapter", adapter.adapter is not None),
        ("load_in_4bit", quantization.load_in_4bit),
        ("load_in_8bit", quantization.load_in_8bit),
        ("load_in_torchao", quantization.load_in_torchao is not None),
    )
    asked = [name for name, is_on in switches if is_on]
    if asked:
        shown = list_keys(asked)
        yield Finding("qat", f"`qat` cannot be used with {shown}", f"Remove `qat`, or {shown}.")


def _check_norms(precision: PrecisionSection) -> Iterator[Finding]:
    """Norms are kept in float32 where other weights are not.

    In a run in float32 they are so anyway.
    """
    in_float32 = precision.pure == "float32" or not (precision.pure or precision.bf16 or precision.fp16)
    if precision.fp32_norms and in_float32:
        yield from find_useless_keys(precision, ("fp32_norms",), "where everything is in float32")


#: The smallest number above zero in float16.
_LEAST = 2.0**-24


def _check_epsilon(precision: PrecisionSection, optimizer: OptimizerSection) -> Iterator[Finding]:
    """In pure float16, Adam's epsilon is a number that float16 has.

    Squared gradients below 6e-8 are zero in float16, and so is the default epsilon: Adam would divide by zero.
    """
    name = optimizer.optimizer
    keeps_float16 = name.startswith("adamw_torch") and "bit" not in name
    if precision.pure != "float16" or not keeps_float16 or optimizer.adam_epsilon >= _LEAST:
        return
    key = "adam_epsilon" if "adam_epsilon" in optimizer.model_fields_set else "float16"
    yield Finding(
        key,
        f"`adam_epsilon: {optimizer.adam_epsilon:g}` is zero in `float16`: Adam would divide by zero",
        "Set `adam_epsilon: 1e-4`, or use `fp16: true` instead of `float16`.",
    )


_FP8 = "fp8: true\ntorch_compile: true\n"
_SHARDED = "fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n"

RULES = (
    Rule("SD0235", _check_formats, wrong="bf16: true\nfloat32: true", right="bf16: auto\nfloat32: true"),
    Rule("SD0689", _check_float8, wrong=_FP8 + "fp16: true\nbf16: false", right=_FP8),
    Rule("SD0236", _check_compiled, wrong="fp8: true", right=_FP8),
    Rule(
        "SD0237",
        _check_recomputed,
        wrong=_FP8 + _SHARDED + "  activation_checkpointing: true",
        right=_FP8 + _SHARDED + "  activation_checkpointing: false",
    ),
    Rule(
        "SD0238",
        _check_gathered,
        wrong=_FP8 + "fp8_enable_fsdp_float8_all_gather: true",
        right=_FP8 + "fp8_enable_fsdp_float8_all_gather: true\n" + _SHARDED,
    ),
    Rule(
        "SD0239",
        _check_rounding,
        wrong="adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\nqat:\n  weight_dtype: int4",
        right="qat:\n  weight_dtype: int4",
    ),
    Rule("SD0685", _check_norms, wrong="fp32_norms: true\nbf16: false", right="fp32_norms: true\nbf16: true"),
    Rule(
        "SD0686",
        _check_epsilon,
        wrong="float16: true\noptimizer: adamw_torch",
        right="float16: true\noptimizer: adamw_torch\nadam_epsilon: 1e-4",
    ),
)
