"""Embeddings."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, key, planned


class EmbeddingSection(Section):
    """Size, start values and noise of the embeddings."""

    resize_token_embeddings_to_32x: Bool | None = key("Fill the vocabulary up to a multiple of 32.", None)
    mean_resizing_embeddings: Bool = key("New rows start at the average row, not at random.", False)
    shrink_embeddings: Bool | None = key("Cut off rows beyond the tokenizer's last token.", None)
    embeddings_skip_upcast: Bool | None = planned("Do not raise embeddings to float32 beside an adapter.")
    fix_untrained_tokens: Int | tuple[Int, ...] | None = key("Token ids reset to the average row.", None)
    neftune_noise_alpha: Float | None = key(
        "NEFTune: amount of noise on embeddings while training.", None, gt=0
    )

    @property
    def fixed_ids(self) -> tuple[int, ...]:
        """Token ids whose rows are reset."""
        ids = self.fix_untrained_tokens
        return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
