"""Weights with few bits: loaded so, trained for it, or written so."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, key, planned

QuantizedDtype = Literal["int4", "int8", "float8_e4m3fn", "float8", "fp8", "nvfp4", "mxfp4"]


class QatOptions(Section):
    """`qat:`, training that feels the rounding to come."""

    weight_dtype: QuantizedDtype = planned("Format to which weights are rounded.", "int8")
    activation_dtype: QuantizedDtype | None = planned("Format to which activations are rounded.")
    quantize_embedding: Bool = planned("Round embeddings too.", False)
    group_size: Int = planned("Weights that share a scale.", 32)
    fake_quant_after_n_steps: Int | None = planned("Optimizer steps before rounding begins.")


class PtqOptions(Section):
    """`quantization:`, rounding once training is over."""

    weight_dtype: QuantizedDtype = planned("Format of the written weights.", "int8")
    activation_dtype: QuantizedDtype | None = planned("Format of activations when the model runs.")
    quantize_embedding: Bool | None = planned("Round embeddings too.")
    group_size: Int = planned("Weights that share a scale.", 32)


class CompressorOptions(Section):
    """`llmcompressor:`, training of a model that stays sparse."""

    recipe: Any = planned("Recipe of llm-compressor: a file, or its content.", ...)
    save_compressed: Bool = planned("Write the weights in their compressed form.", False)


class QuantizationSection(Section):
    """How many bits a weight has, before, in and after training."""

    load_in_8bit: Bool = key("Frozen weights in 8 bits, by bitsandbytes; with `adapter: lora`.", False)
    load_in_4bit: Bool = key("Frozen weights in 4 bits, by bitsandbytes; with `adapter: qlora`.", False)
    bnb_config_kwargs: dict[str, Any] | None = key("Settings of bitsandbytes to change.", None)
    load_in_torchao: Literal["int8", "fp8", "int4"] | None = key(
        "Frozen weights in few bits, by torchao; with `adapter: lora`.", None, planned_values=("int4",)
    )
    merge_base: Literal["dequantized", "original"] = key(
        "What an adapter on rounded weights is merged into: those weights, widened, or the unrounded ones.",
        "dequantized",
    )
    qlora_sharded_model_loading: Bool = planned("Quantize shard by shard (QLoRA with FSDP).", False)
    gptq: Bool | None = planned("The weights were quantized by GPTQ.")
    use_onebitllms: Bool | None = planned("Three-valued weights, as in BitNet (1.58 bits).")
    model_quantization_config: Literal["Mxfp4Config", "FineGrainedFP8Config"] | None = key(
        "Class of transformers that reads weights quantized by others; they are widened as they are read.",
        None,
    )
    model_quantization_config_kwargs: dict[str, Any] | None = key("Arguments of that class.", None)
    qat: QatOptions | None = planned("Training that feels the rounding to come.")
    quantization: PtqOptions | None = planned("Rounding of the trained model.")
    llmcompressor: CompressorOptions | None = planned("Training of a sparse model.")

    @property
    def ways(self) -> tuple[str, ...]:
        """The keys that each say how weights in few bits are read; more than one contradict each other."""
        asked = {
            "load_in_4bit": self.load_in_4bit,
            "load_in_8bit": self.load_in_8bit,
            "load_in_torchao": self.load_in_torchao,
            "gptq": self.gptq,
            "model_quantization_config": self.model_quantization_config,
        }
        return tuple(name for name, is_set in asked.items() if is_set)
