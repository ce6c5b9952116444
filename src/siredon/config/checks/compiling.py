"""Settings of `torch_compile`."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import keys_set
from siredon.config.rule import Finding, Rule
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.packing import PackingSection


def _check_switch(compile: CompileSection) -> Iterator[Finding]:
    """Settings of the compiler come with `torch_compile`.

    `torch_compile_options` alone is an error, as in Axolotl: flags are set by people who count on them.
    """
    if compile.torch_compile:
        return
    for name in keys_set(compile, ("torch_compile_options", "torch_compile_backend", "torch_compile_mode")):
        yield Finding(
            name,
            f"`{name}` has no effect without `torch_compile`",
            "Add `torch_compile: true`, or remove the key.",
            "error" if name == "torch_compile_options" else "warning",
        )


def _check_flags(compile: CompileSection) -> Iterator[Finding]:
    """`torch_compile_options` are for inductor, without a `torch_compile_mode`.

    A mode is a set of flags of its own; PyTorch takes one or the other.  Another compiler does not know them.
    """
    if not compile.torch_compile or not compile.torch_compile_options:
        return
    if compile.torch_compile_mode is not None:
        yield Finding(
            "torch_compile_mode",
            "`torch_compile_mode` and `torch_compile_options` exclude each other",
            "Keep one of them.",
        )
    if compile.torch_compile_backend not in (None, "inductor"):
        yield Finding(
            "torch_compile_options",
            f"`torch_compile_options` are for inductor, not for `{compile.torch_compile_backend}`",
            "Remove `torch_compile_backend`, or `torch_compile_options`.",
        )


def _check_graphs(compile: CompileSection, packing: PackingSection) -> Iterator[Finding]:
    """Recorded graphs are for batches that are all alike.

    A graph replays what was recorded; packs differ in their borders, and each new shape is recorded anew.  On an H100
    recorded layers were no faster than compiled ones with packs.
    """
    if compile.records_graphs and packing.sample_packing:
        yield Finding(
            _key_of_graphs(compile),
            "recorded graphs may be recorded anew for every pack of `sample_packing`",
            "Remove the key, or set `sample_packing: false`.",
            "warning",
        )


def _check_recorded(compile: CompileSection, memory: MemorySection) -> Iterator[Finding]:
    """Layers that are recorded as graphs keep what they compute where they computed it.

    A graph that is recorded while a layer is computed again in the backward pass cannot be replayed: PyTorch stops the
    run.  Neither can tensors that wait elsewhere until then.
    """
    if not compile.records_graphs:
        return
    for name in ("gradient_checkpointing", "activation_offloading"):
        if getattr(memory, name):
            yield Finding(
                _key_of_graphs(compile),
                f"recorded graphs do not go with `{name}`: what a layer computes stays where it was recorded",
                f"Remove the key, or set `{name}: false`.",
            )
            return


def _key_of_graphs(compile: CompileSection) -> str:
    by_mode = compile.torch_compile_mode == "reduce-overhead"
    return "torch_compile_mode" if by_mode else "torch_compile_options"


def _check_timed(compile: CompileSection, batch: BatchSection) -> Iterator[Finding]:
    """A compiler that chooses kernels by timing them does not choose the same ones each time.

    So `deterministic: true` cannot be kept: other kernels sum in another order, and give other bits.
    """
    if not compile.torch_compile or not batch.deterministic:
        return
    fix = "Remove it, or set `deterministic: false`."
    if compile.torch_compile_mode == "max-autotune":
        yield Finding(
            "torch_compile_mode",
            "`torch_compile_mode: max-autotune` chooses kernels by timing them, which is not `deterministic`",
            fix,
            value="max-autotune",
        )
    options = compile.torch_compile_options or {}
    for name, value in options.items():
        if name in _TIMED and value:
            yield Finding(
                "torch_compile_options",
                f"`{name}` lets inductor choose kernels by timing them, which is not `deterministic`",
                fix,
            )


#: Flags of inductor that time what it could do.
_TIMED = ("max_autotune_gemm", "coordinate_descent_tuning")
_GRAPHS = "torch_compile: true\ntorch_compile_options:\n  triton.cudagraphs: true\n"
_FUSION = "torch_compile_options:\n  epilogue_fusion: true\n"

RULES = (
    Rule("SD0240", _check_switch, wrong=_FUSION, right="torch_compile: true\n" + _FUSION),
    Rule(
        "SD0241",
        _check_flags,
        wrong="torch_compile: true\ntorch_compile_mode: max-autotune\n" + _FUSION,
        right="torch_compile: true\ntorch_compile_backend: inductor\n" + _FUSION,
    ),
    Rule(
        "SD0242",
        _check_graphs,
        wrong=_GRAPHS + "sample_packing: true",
        right=_GRAPHS + "sample_packing: false",
    ),
    Rule(
        "SD0702",
        _check_recorded,
        wrong="torch_compile: true\ntorch_compile_mode: reduce-overhead\ngradient_checkpointing: true",
        right="torch_compile: true\ntorch_compile_mode: reduce-overhead\ngradient_checkpointing: false",
    ),
    Rule(
        "SD0810",
        _check_timed,
        wrong="torch_compile: true\ntorch_compile_mode: max-autotune\ndeterministic: true",
        right="torch_compile: true\ndeterministic: true",
    ),
)
