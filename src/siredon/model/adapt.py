"""What is trained, and what is recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.memory import MemorySection
from siredon.log import warn
from siredon.model.adapter_folder import add_frozen_adapters, train_on
from siredon.model.attach import upcast_trained_
from siredon.registry import Shelf

ADAPTERS = Shelf("siredon.model.adapters", "ADAPTER", "adapter")


def attach_adapter_(model: Any, section: AdapterSection, *, seed: int) -> Any:
    """Freezes the model and attaches the adapter that `adapter:` names; without one every weight is trained.

    Args:
        model: A model of transformers.
        section: Which adapter.
        seed: Seed of its random weights, which do not depend on what ran before.

    Raises:
        ModelError: Settings that do not fit the model.
        CheckpointError: A folder of an earlier adapter that holds none, or one that does not fit.
    """
    import transformers

    transformers.set_seed(seed)
    if section.adapter is None:
        return model
    model = add_frozen_adapters(model, section)
    if section.lora_model_dir is None:
        return ADAPTERS.load(section.adapter)(model, section)
    adapted = train_on(model, section)
    if section.peft_autocast_adapter_dtype:
        upcast_trained_(adapted)
    return adapted


def warn_of_frozen_tokens(tokens: Sequence[str], section: AdapterSection) -> None:
    """New tokens have random embeddings, which an adapter leaves as they are unless it is told otherwise."""
    saved = " ".join(section.lora_modules_to_save)
    trained = "embed" in saved or "wte" in saved or section.peft_trainable_token_indices
    if section.adapter and tokens and not trained:
        warn(
            f"{len(tokens)} new token(s) ({', '.join(tokens[:3])}) have random embeddings, which are not trained: "
            "add `lora_modules_to_save: [embed_tokens, lm_head]`"
        )


def recompute_activations_(model: Any, section: MemorySection) -> None:
    """Switches gradient checkpointing on, not reentrant unless the config says so."""
    if not section.gradient_checkpointing:
        return
    options = {"use_reentrant": False, **section.gradient_checkpointing_kwargs}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if options["use_reentrant"]:
        # Without an input that needs a gradient, reentrant checkpointing gives frozen layers none.
        model.enable_input_require_grads()
