"""Embeddings."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, key, planned


class EmbeddingSection(Section):
    """Size, start values and noise of the embeddings."""

    resize_token_embeddings_to_32x: Bool | None = planned("Fill the vocabulary up to a multiple of 32.")
    mean_resizing_embeddings: Bool = planned("New rows start at the average row, not at random.", False)
    shrink_embeddings: Bool | None = planned("Cut off rows beyond the tokenizer's last token.")
    embeddings_skip_upcast: Bool | None = planned("Do not raise embeddings to float32 beside an adapter.")
    fix_untrained_tokens: Int | tuple[Int, ...] | None = planned("Token ids reset to the average row.")
    neftune_noise_alpha: Float | None = key(
        "NEFTune: amount of noise on embeddings while training.", None, gt=0
    )
