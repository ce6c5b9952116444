"""`adapter: ia3`: trained vectors that scale what layers give or take, through PEFT.

Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022,
https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import ModelError
from siredon.model.attach import attach_peft_
from siredon.model.targets import find_targets, matches

#: Ends of the names of layers that end a feed-forward part, whose input is scaled if `peft:` does not say which.
_LAST_OF_FEED_FORWARD = ("down_proj", "fc2", "w2", "dense_4h_to_h", "mlp.c_proj")


def attach_ia3_(model: Any, section: AdapterSection) -> Any:
    """Freezes the model and scales the outputs of the chosen layers; of feed-forward ones the inputs.

    Which layers are those, `peft: {feedforward_modules: [...]}` says; default the last ones of feed-forward parts.

    Raises:
        ModelError: A name that matches no layer, or settings that do not fit the layers.
    """
    from peft import IA3Config

    modules = find_targets(model, section).modules
    given = section.peft.get("feedforward_modules")
    names = _LAST_OF_FEED_FORWARD if given is None else [given] if isinstance(given, str) else given
    inner = [name for name in modules if any(matches(end, name) for end in names)]
    for end in () if given is None else names:
        if not any(matches(end, name) for name in modules):
            raise ModelError(
                f"`peft: feedforward_modules: {end}` is none of the layers that are adapted",
                "Name layers of `lora_target_modules`.",
            )
    settings = {**section.peft, "feedforward_modules": inner, "target_modules": list(modules)}
    return attach_peft_(model, section.model_copy(update={"peft": settings}), IA3Config)


ADAPTER = attach_ia3_
