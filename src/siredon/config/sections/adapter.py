"""Adapters."""

from __future__ import annotations

from typing import Literal

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, planned


class LoftqOptions(Section):
    """`loftq_config:`, adapters that start from the error of quantization."""

    loftq_bits: Int = planned("Bits per weight of the quantized weights.", 4)


class PeftOptions(Section):
    """`peft:`, settings handed to PEFT."""

    loftq_config: LoftqOptions | None = planned("LoftQ: begin where quantization lost precision.")


class MoraOptions(Section):
    """`mora:`, a square matrix in place of LoRA's two thin ones."""

    use_mora: Bool = planned("Adapt with MoRA.", True)
    mora_type: Literal["sharing", "rope"] = planned("How an input is folded into the square matrix.", "rope")


class AdapterSection(Section):
    """A small trained part beside frozen weights; without `adapter` every weight is trained."""

    adapter: Literal["lora", "qlora", "llama-adapter", "mora"] | None = key(
        "Kind of adapter; none trains every weight.", None, planned_values=("llama-adapter", "mora")
    )
    lora_r: Int | None = key("Rank of LoRA.", None, ge=1)
    lora_alpha: Float | None = key("LoRA is scaled by `lora_alpha / lora_r`.", None, gt=0)
    lora_dropout: Float = key("Dropout on LoRA's input.", 0.0, ge=0, lt=1)
    lora_target_modules: StrList = key("Names of the layers that get LoRA.", ())
    lora_target_linear: Bool = key("LoRA on every linear layer except the head.", False)
    lora_modules_to_save: StrList = key("Layers that are trained in full beside LoRA.", ())
    lora_model_dir: Str | None = planned("Folder of an adapter to train on, or to merge.")
    lora_target_parameters: StrList | None = planned("Bare tensors that get LoRA, such as stacked experts.")
    lora_fan_in_fan_out: Bool | None = planned("The layers hold their weight transposed, as in GPT-2.")
    lora_rank_pattern: dict[Str, Int] | None = planned("Regular expression of a layer -> its own rank.")
    lora_alpha_pattern: dict[Str, Int] | None = planned("Regular expression of a layer -> its own alpha.")
    peft_layers_to_transform: tuple[Int, ...] | None = planned("Numbers of the blocks that get LoRA, from 0.")
    peft_layers_pattern: StrList | None = planned("Name of the list of blocks that the numbers refer to.")
    peft: PeftOptions | None = planned("Settings handed to PEFT.")
    peft_use_dora: Bool | None = planned("DoRA: learn direction and length of the weights apart.")
    peft_use_rslora: Bool | None = planned("Scale by `lora_alpha / sqrt(lora_r)`.")
    peft_layer_replication: tuple[tuple[Int, Int], ...] | None = planned(
        "Ranges of blocks, `[first, end]`, stacked to a deeper model that shares weights."
    )
    peft_init_lora_weights: Bool | Str | None = planned("Start values of LoRA, such as `pissa` or `olora`.")
    peft_trainable_token_indices: tuple[Int, ...] | dict[Str, tuple[Int, ...]] | None = planned(
        "Token ids whose embedding rows are trained; for several layers, name -> ids."
    )
    peft_ensure_weight_tying: Bool | None = planned("Weights that are shared get one shared adapter.")
    peft_autocast_adapter_dtype: Bool = planned("Hold 16-bit adapters in float32 while training.", True)
    loraplus_lr_ratio: Float | None = key("LoRA+: learning rate of B over that of A.", None, gt=0)
    loraplus_lr_embedding: Float = key("LoRA+: learning rate of embedding adapters.", 1e-6, gt=0)
    lora_on_cpu: Bool | None = planned("Read the adapter into RAM when merging.")
    merge_method: Literal["legacy", "memory_efficient"] = planned(
        "Merge file by file, or the whole model in memory (`legacy`).", "memory_efficient"
    )
    mora: MoraOptions | None = planned("MoRA in place of LoRA.")
