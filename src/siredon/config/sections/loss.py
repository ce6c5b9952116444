"""The loss, and when it ends a run."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, planned


class LossSection(Section):
    """How the loss is computed."""

    cut_cross_entropy: Bool | None = planned("Cross-entropy that never holds all logits, by Apple's kernel.")
    chunked_cross_entropy: Bool | None = planned("Cross-entropy piece by piece, each in float32.")
    chunked_cross_entropy_num_chunks: Int | None = planned("Pieces per batch.")
    flash_attn_cross_entropy: Bool | None = planned("Cross-entropy by the kernel of flash-attn.")
    use_eaft: Bool | None = planned("EAFT: tokens weigh by how unsure the model is.")
    eaft_alpha: Float = planned("EAFT: exponent of the entropy.", 1.0)
    eaft_k: Int = planned("EAFT: most likely tokens that the entropy is taken over.", 20)


class StoppingSection(Section):
    """What ends a run before its time."""

    early_stopping_patience: Int | None = planned("Validations in a row without a better result.")
    loss_watchdog_threshold: Float | None = planned("Training loss above which a run has failed.")
    loss_watchdog_patience: Int | None = planned("Optimizer steps in a row above it; default 3.")
