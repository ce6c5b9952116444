"""torch.compile."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, key

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

    torch_compile: Bool | Literal["auto"] | None = key(
        "Compile each layer of the model; `auto` on a GPU with Triton.", None
    )
    torch_compile_backend: Str | None = key("Compiler; default inductor.", None)
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune"] | None = key(
        "How much time compiling may take; `max-autotune` tries several kernels, and records no graphs; "
        "`reduce-overhead` records each layer as a graph, for small models and batches on a GPU.",
        None,
    )
    torch_compile_options: dict[InductorOption, Bool | Int | Float | Str] | None = key(
        "Flags of inductor.", None
    )

    @property
    def records_graphs(self) -> bool:
        """Whether compiled layers are recorded as graphs, on a GPU."""
        by_mode = self.torch_compile_mode == "reduce-overhead"
        by_flag = (self.torch_compile_options or {}).get("triton.cudagraphs")
        return bool(self.torch_compile) and bool(by_mode or by_flag)
