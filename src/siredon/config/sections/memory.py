"""Memory traded for time."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, StrList, key, planned


class SelectiveCheckpointing(Section):
    """`selective_checkpointing:`, which results are kept although the rest is recomputed."""

    save: StrList = planned("Operations whose results are kept.", ("attention",))
    save_sliding_window: Bool = planned("Keep those of attention in windows too.", False)
    recompute_layer_types: StrList | None = planned("Types of layers that are recomputed all the same.")
    offload: Bool = planned("Park what is kept in pinned RAM.", False)


class MemorySection(Section):
    """What is recomputed instead of kept."""

    gradient_checkpointing: Bool = key("Recompute activations in the backward pass.", False)
    gradient_checkpointing_kwargs: dict[str, Any] = key(
        "Settings of checkpointing, such as `use_reentrant`; default not reentrant.", {}
    )
    selective_checkpointing: SelectiveCheckpointing | Bool | None = planned(
        "Keep the costly results and recompute the cheap ones."
    )
    activation_offloading: Bool | Literal["legacy", "disk", "hidden_states"] = planned(
        "Park activations in RAM, or on disk, until the backward pass.", False
    )
    layer_offloading: Bool = planned("Hold frozen layers in RAM and fetch each when its turn comes.", False)
    torch_empty_cache_steps: Int | None = key(
        "Optimizer steps between releases of unused GPU memory.", None, ge=1
    )
    gc_collect_steps: Int | None = key(
        "Optimizer steps between Python garbage collections; -1 is per epoch and before validation, 0 never.",
        None,
        ge=-1,
    )
    tiled_mlp: Bool | None = planned("Run feed-forward layers over slices of the sequence.")
    tiled_mlp_num_shards: Int | None = planned("Slices per sequence; default about 32,000 tokens each.")
    tiled_mlp_use_original_mlp: Bool = planned("Slice the model's own layer, not a general one.", True)
