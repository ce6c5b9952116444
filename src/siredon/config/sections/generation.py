"""Samples of what the model writes, while it trains."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, planned


class GenerationSection(Section):
    """Samples, and how they are drawn."""

    generate_samples: Bool = planned("Let the model continue some rows at each validation.", False)
    num_generation_samples: Int = planned("Rows that are continued at once.", 3)
    generation_prompt_ratio: Float = planned("Part of a row that is given.", 0.5)
    generation_max_new_tokens: Int = planned("Longest continuation, in tokens.", 50)
    generation_do_sample: Bool = planned("Draw tokens at random; otherwise take the best.", True)
    generation_temperature: Float = planned("Sampling temperature.", 0.7)
    generation_top_p: Float | None = planned("Draw among tokens that together have this probability.")
    generation_top_k: Int | None = planned("Draw among this many tokens.")
