"""torch.compile."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, planned

InductorOption = Literal[
    "coordinate_descent_tuning",
    "coordinate_descent_check_all_directions",
    "shape_padding",
    "epilogue_fusion",
    "max_autotune_gemm",
    "fx_graph_cache",
    "assume_aligned_inputs",
    "comprehensive_padding",
    "decompose_mem_bound_mm",
    "triton.cudagraphs",
]


class CompileSection(Section):
    """Compiling of the model."""

    torch_compile: Bool | Literal["auto"] | None = planned("Compile the model; `auto` where it can run.")
    torch_compile_backend: Str | None = planned("Compiler; default inductor.")
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = planned(
        "How much time compiling may take."
    )
    torch_compile_options: dict[InductorOption, Bool | Int | Float | Str] | None = planned(
        "Flags of inductor."
    )
