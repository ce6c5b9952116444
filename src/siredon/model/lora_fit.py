"""Whether the settings of LoRA fit the model: what no look at the YAML alone can tell."""

from __future__ import annotations

from typing import Any

import torch

from siredon.config.sections.adapter import AdapterSection
from siredon.errors import ModelError
from siredon.model.attach import holds_transposed
from siredon.model.targets import Targets, check_patterns, tied_names

#: Starts that decompose a weight, or that only linear layers have.
_OF_MATRICES = ("pissa", "olora", "orthogonal", "mica", "eva", "loftq")
#: Those of them that take singular or orthogonal vectors of the weight: no more than it has.
_OF_VECTORS = ("pissa", "olora", "mica", "loftq")


def check_fit(model: Any, section: AdapterSection, targets: Targets) -> None:
    """Refuses settings that the model's layers do not allow.

    Args:
        model: A model of transformers, without an adapter.
        section: Settings of LoRA.
        targets: What is adapted.

    Raises:
        ModelError: The first of them, and the way out.
    """
    adapted = (*targets.modules, *targets.parameters)
    check_patterns("lora_rank_pattern", section.lora_rank_pattern or (), adapted)
    check_patterns("lora_alpha_pattern", section.lora_alpha_pattern or (), adapted)
    _check_start(model, section, targets)
    _check_biases(model, section, targets)
    _check_blocks(model, section)
    _check_tokens(model, section)


def fit_transposed(model: Any, section: AdapterSection, targets: Targets) -> bool:
    """Whether the layers hold their weight transposed.

    Raises:
        ModelError: The config says otherwise.
    """
    found = holds_transposed(model, targets)
    given = section.lora_fan_in_fan_out
    if given is not None and given != found:
        kind = type(model.get_submodule(targets.modules[0])).__name__ if targets.modules else "tensor"
        raise ModelError(
            f"`lora_fan_in_fan_out: {str(given).lower()}` does not fit this model: its layers are of class {kind}",
            "Remove the key: the model says how it holds its weights.",
        )
    return found


def fit_tying(model: Any, section: AdapterSection) -> bool:
    """Whether embeddings and head, if they are one tensor, are trained as one.

    Raises:
        ModelError: They are to be, and are two tensors.
    """
    given = section.peft_ensure_weight_tying
    if given and not model.config.get_text_config().tie_word_embeddings:
        raise ModelError(
            "`peft_ensure_weight_tying: true`: this model's embeddings and head are two tensors",
            "Remove the key.",
        )
    saved = bool(tied_names(model, section.lora_modules_to_save))
    if given and not saved and not section.peft_trainable_token_indices:
        raise ModelError(
            "`peft_ensure_weight_tying: true`: neither embeddings nor head is trained",
            "Add `lora_modules_to_save: [embed_tokens]`, or remove the key.",
        )
    return saved and given is not False  # PEFT trains rows of shared embeddings as one by itself


def _check_start(model: Any, section: AdapterSection, targets: Targets) -> None:
    start = "loftq" if section.rounds_base else section.start
    if start not in _OF_MATRICES:
        return
    asked = "peft: loftq_config" if start == "loftq" else f"peft_init_lora_weights: {start}"
    for name in targets.modules:
        module = model.get_submodule(name)
        if isinstance(module, torch.nn.Embedding) and start != "mica":
            raise ModelError(
                f"`{asked}` is for linear layers, and {name} is an embedding",
                "Leave it out of `lora_target_modules`.",
            )
        largest, rank = min(module.weight.shape), _largest_rank(section)
        if start in _OF_VECTORS and rank > largest:
            raise ModelError(
                f"`{asked}`: a rank of {rank} is more than {name} has, {largest}",
                "Lower `lora_r` or `lora_rank_pattern`.",
            )


def _largest_rank(section: AdapterSection) -> int:
    return max([section.lora_r or 0, *(section.lora_rank_pattern or {}).values()])


def _check_biases(model: Any, section: AdapterSection, targets: Targets) -> None:
    if section.lora_bias == "none":
        return
    biased = [name.rpartition(".")[0] for name, _ in model.named_parameters() if name.endswith("bias")]
    if section.lora_bias == "lora_only":
        biased = [name for name in biased if name in targets.modules]
    if not biased:
        which = "layer with LoRA" if section.lora_bias == "lora_only" else "layer of this model"
        raise ModelError(f"`lora_bias: {section.lora_bias}`: no {which} has a bias", "Remove the key.")


def _check_blocks(model: Any, section: AdapterSection) -> None:
    pairs = section.peft_layer_replication
    if not pairs:
        return
    number = model.config.get_text_config().num_hidden_layers
    for first, end in pairs:
        if not 0 <= first < end <= number:
            raise ModelError(
                f"`peft_layer_replication: [{first}, {end}]`: this model's blocks are 0 to {number - 1}",
                f"Each pair is the first block and the one after the last: [0, {number}] is all of them.",
            )
    if "layer_types" in model.config.to_dict():
        raise ModelError(
            "`peft_layer_replication`: this model's config says of each block what attention it has, "
            "and the deeper model would have none for its further blocks",
            "Use a model whose blocks are all alike, such as Llama.",
        )


def _check_tokens(model: Any, section: AdapterSection) -> None:
    tokens = section.peft_trainable_token_indices
    if not tokens:
        return
    asked = tokens if isinstance(tokens, dict) else {"": tokens}
    for name, ids in asked.items():
        layer = model.get_input_embeddings()
        if name:
            found = [
                part for full, part in model.named_modules() if full == name or full.endswith(f".{name}")
            ]
            if not found or not isinstance(found[0], (torch.nn.Embedding, torch.nn.Linear)):
                raise ModelError(
                    f"`peft_trainable_token_indices: {name}` is no embedding of this model",
                    "Give the ids alone: they are rows of the input embeddings.",
                )
            layer = found[0]
        rows = layer.weight.shape[0]
        wrong = [index for index in ids if not 0 <= index < rows]
        if wrong:
            raise ModelError(
                f"`peft_trainable_token_indices`: {wrong[0]} is no token id: there are {rows} rows",
                f"Ids go from 0 to {rows - 1}.",
            )
