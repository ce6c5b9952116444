"""Memory traded for time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from siredon.config.fields import Bool, Float, Int, Section, StrList, key, planned


class SelectiveCheckpointing(Section):
    """`selective_checkpointing:`, which results are kept although the rest is recomputed."""

    save: StrList = key(
        "Operations whose results are kept: `attention`, or PyTorch's own names, such as `aten.mm`.",
        ("attention",),
    )
    save_sliding_window: Bool = key("Keep those of layers whose attention sees a window, too.", False)
    recompute_layer_types: StrList | None = key(
        "Types of layers, as the model's config names them, that are recomputed whole all the same.", None
    )
    offload: Bool = key("Park what is kept in pinned RAM; on a CPU it is there already.", False)


#: More than nothing, less than all.
Fraction = Annotated[Float, Field(gt=0, lt=1)]


class MemorySection(Section):
    """What is recomputed instead of kept."""

    gradient_checkpointing: Bool | Fraction | Literal["auto"] = key(
        "Recompute activations in the backward pass; a fraction, such as 0.5, is that of the layers; `auto` recomputes "
        "as few of them as the longest batch needs.",
        False,
    )
    gradient_checkpointing_every_n_layers: Int | None = key(
        "Recompute every n-th layer only; the others keep their activations.", None, ge=2
    )
    gradient_checkpointing_kwargs: dict[str, Any] = key(
        "Settings of checkpointing, such as `use_reentrant`; default not reentrant.", {}
    )
    selective_checkpointing: SelectiveCheckpointing | Bool | None = key(
        "Keep the costly results and recompute the cheap ones.", None
    )
    activation_offloading: Bool | Literal["legacy", "disk", "hidden_states"] = key(
        "Park what is kept for the backward pass in RAM, or on disk; `hidden_states` parks the inputs of recomputed "
        "layers only, `legacy` copies without a stream of its own.",
        False,
    )
    layer_offloading: Bool = key(
        "Hold frozen weights of layers in RAM and fetch each when its turn comes.", False
    )
    torch_empty_cache_steps: Int | None = key(
        "Optimizer steps between releases of unused GPU memory.", None, ge=1
    )
    gc_collect_steps: Int | None = key(
        "Optimizer steps between Python garbage collections; -1 is per epoch and before validation, 0 never.",
        None,
        ge=-1,
    )
    probe_longest_batch: Bool | Literal["auto"] = key(
        "Try the longest batch before the first step; `auto` does on a GPU, unless layers are compiled.",
        "auto",
    )
    on_out_of_memory: Literal["stop", "retry"] = key(
        "`stop` saves the last step and ends with the numbers; `retry` makes the step once more, row by row.",
        "stop",
    )
    tiled_mlp: Bool | None = planned("Run feed-forward layers over slices of the sequence.")
    tiled_mlp_num_shards: Int | None = planned("Slices per sequence; default about 32,000 tokens each.")
    tiled_mlp_use_original_mlp: Bool = planned("Slice the model's own layer, not a general one.", True)

    @property
    def kept_results(self) -> SelectiveCheckpointing | None:
        """The settings of selective checkpointing, if it is on."""
        block = self.selective_checkpointing
        if isinstance(block, SelectiveCheckpointing):
            return block
        return SelectiveCheckpointing() if block else None
