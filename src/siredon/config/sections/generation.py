"""Samples of what the model writes, while it trains."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, key


class GenerationSection(Section):
    """Samples, and how they are drawn."""

    generate_samples: Bool = key("Let the model continue some validation rows at each validation.", False)
    num_generation_samples: Int = key("Rows that are continued each time.", 3, ge=1)
    generation_prompt_ratio: Float = key("Part of a row that is given.", 0.5, gt=0, lt=1)
    generation_max_new_tokens: Int = key("Longest continuation, in tokens.", 50, ge=1)
    generation_do_sample: Bool = key("Draw tokens at random; otherwise take the best.", True)
    generation_temperature: Float = key("Sampling temperature.", 0.7, gt=0)
    generation_top_p: Float | None = key(
        "Draw among tokens that together have this probability.", None, gt=0, le=1
    )
    generation_top_k: Int | None = key("Draw among this many tokens.", None, ge=1)
