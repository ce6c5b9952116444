"""Adapters."""

from __future__ import annotations

import re
from typing import Any, Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, planned

_SPECIAL = re.compile(r"[\\^$*+?(){}|\[\]]")
_ALL_LINEAR = "all-linear"


def is_pattern(text: str) -> bool:
    """Whether a name is a regular expression: it has a special character other than a dot."""
    return _SPECIAL.search(text) is not None


class MoraOptions(Section):
    """`mora:`, a square matrix in place of LoRA's two thin ones."""

    use_mora: Bool = planned("Adapt with MoRA.", True)
    mora_type: Literal["sharing", "rope"] = planned("How an input is folded into the square matrix.", "rope")


class AdapterSection(Section):
    """A small trained part beside frozen weights; without `adapter` every weight is trained."""

    adapter: (
        Literal[
            "lora",
            "qlora",
            "oft",
            "boft",
            "vera",
            "ia3",
            "lokr",
            "hra",
            "fourierft",
            "miss",
            "delora",
            "randlora",
            "llama-adapter",
            "mora",
        ]
        | None
    ) = key("Kind of adapter; none trains every weight.", None, planned_values=("mora",))
    lora_r: Int | None = key("Rank of LoRA.", None, ge=1)
    lora_alpha: Float | None = key("LoRA is scaled by `lora_alpha / lora_r`.", None, gt=0)
    lora_dropout: Float = key("Dropout on LoRA's input.", 0.0, ge=0, lt=1)
    lora_target_modules: StrList = key(
        "Layers that get the adapter: names, ends of names, or regular expressions; `all-linear` for all.", ()
    )
    lora_target_linear: Bool = key("The adapter on every linear layer except the head.", False)
    lora_exclude_modules: StrList = key("Of those layers, the ones that get none.", ())
    lora_modules_to_save: StrList = key("Layers that are trained in full beside the adapter.", ())
    lora_model_dir: Str | None = key(
        "Folder of an adapter to train on; asked and merged while `output_dir` holds none.", None
    )
    lora_frozen_dirs: StrList = key(
        "Folders of finished adapters that are added to the base first; they are not trained.", ()
    )
    lora_target_parameters: StrList | None = key("Bare tensors that get LoRA, such as stacked experts.", None)
    lora_fan_in_fan_out: Bool | None = key(
        "The layers hold their weight transposed, as in GPT-2; default as the model has them.", None
    )
    lora_bias: Literal["none", "all", "lora_only"] = key(
        "Biases that are trained too: every one, or those of adapted layers.", "none"
    )
    lora_rank_pattern: dict[Str, Int] | None = key("Regular expression of a layer -> its own rank.", None)
    lora_alpha_pattern: dict[Str, Int] | None = key("Regular expression of a layer -> its own alpha.", None)
    peft_layers_to_transform: tuple[Int, ...] | None = key(
        "Numbers of the blocks that get the adapter, from 0.", None
    )
    peft_layers_pattern: StrList | None = key("Name of the list of blocks that the numbers refer to.", None)
    peft: dict[str, Any] = key("Further settings of PEFT's class for the adapter.", {})
    peft_use_dora: Bool | None = key("DoRA: learn direction and length of the weights apart.", None)
    peft_use_rslora: Bool | None = key("Scale by `lora_alpha / sqrt(lora_r)`.", None)
    peft_layer_replication: tuple[tuple[Int, Int], ...] | None = key(
        "Ranges of blocks, `[first, end]`, stacked to a deeper model that shares weights.", None
    )
    peft_init_lora_weights: Bool | Str | None = key("Start values of LoRA, such as `pissa` or `olora`.", None)
    peft_trainable_token_indices: tuple[Int, ...] | dict[Str, tuple[Int, ...]] | None = key(
        "Token ids whose embedding rows are trained; for several layers, name -> ids.", None
    )
    peft_ensure_weight_tying: Bool | None = key(
        "Weights that are shared are trained as one; default yes, where embeddings and head are.", None
    )
    peft_autocast_adapter_dtype: Bool = key("Hold 16-bit adapters in float32 while training.", True)
    loraplus_lr_ratio: Float | None = key("LoRA+: learning rate of B over that of A.", None, gt=0)
    loraplus_lr_embedding: Float = key("LoRA+: learning rate of embedding adapters.", 1e-6, gt=0)
    lora_on_cpu: Bool | None = key("Merge in RAM, which is the default; false: on the GPU.", None)
    merge_method: Literal["legacy", "memory_efficient"] = key(
        "Merge file by file, or the whole model in memory (`legacy`).", "memory_efficient"
    )
    mora: MoraOptions | None = planned("MoRA in place of LoRA.")

    @property
    def targets_linear(self) -> bool:
        """Whether every linear layer but the head is adapted."""
        return self.lora_target_linear or _ALL_LINEAR in self.lora_target_modules

    @property
    def named_targets(self) -> tuple[str, ...]:
        """The layers that are named one by one."""
        return tuple(name for name in self.lora_target_modules if name != _ALL_LINEAR)

    @property
    def is_lora(self) -> bool:
        """Whether the adapter is LoRA, whatever the base's number of bits."""
        return self.adapter in ("lora", "qlora")

    @property
    def start(self) -> str:
        """Where LoRA starts, without its number of iterations; empty for the plain start."""
        given = self.peft_init_lora_weights
        return given.partition("_niter_")[0] if isinstance(given, str) else ""

    @property
    def moves_base(self) -> bool:
        """Whether the start takes from the base weights what it puts into LoRA."""
        return self.start in ("pissa", "olora")

    @property
    def starts_as_nothing(self) -> bool:
        """Whether the adapter begins as no change of its base, to the bit, and all of it can be switched off."""
        plain = self.peft_init_lora_weights in (None, True, "gaussian", "eva")
        own = (
            self.lora_model_dir
            or self.peft_use_dora
            or self.peft_layer_replication
            or self.lora_bias != "none"
        )
        own = own or not {"loftq_config", "init_lora_weights", "use_dora", "bias"}.isdisjoint(self.peft)
        return self.is_lora and plain and not own

    @property
    def rounds_base(self) -> bool:
        """Whether LoftQ rounds the base weights."""
        return "loftq_config" in self.peft

    @property
    def hides_base(self) -> bool:
        """Whether the base cannot be had back by switching the adapter off."""
        return bool(
            self.lora_bias != "none"
            or self.peft_layer_replication
            or self.lora_frozen_dirs
            or self.lora_model_dir
        )
