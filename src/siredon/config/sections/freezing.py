"""Which weights are trained when not all of them are."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, planned


class FreezingSection(Section):
    """Weights that are trained, by name or by their signal-to-noise ratio (Spectrum)."""

    unfrozen_parameters: StrList | None = planned(
        "Regular expressions of the only weights that are trained, with rows as in `embed_tokens[:128]`."
    )
    spectrum_top_fraction: Float = planned("Spectrum: fraction of each kind of layer that is trained.", 0.5)
    spectrum_model_name: Str | None = planned("Spectrum: model whose measured ratios decide.")


class ReloraSection(Section):
    """ReLoRA: adapters are merged now and then, and begin anew."""

    relora: Bool | None = planned("Merge and begin anew, every `jagged_restart_steps`.")
    relora_prune_ratio: Float | None = planned("How much of the optimizer's state a restart clears, 0 to 1.")
    relora_prune_method: Literal["magnitude", "random", "reset"] = planned(
        "What is cleared: small values, random ones, or all.", "magnitude"
    )
    relora_cpu_offload: Bool | None = planned("Do the merging in RAM.")


class LisaSection(Section):
    """LISA: a few layers are trained at a time."""

    lisa_n_layers: Int | None = planned("Layers trained at a time.")
    lisa_step_interval: Int | None = planned("Optimizer steps until others take their turn.")
    lisa_layers_attribute: Str = planned("Where the model keeps its list of layers.", "model.layers")
