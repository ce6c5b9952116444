"""Weights with few bits: loaded so, trained for it, or written so."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, key, planned

QuantizedDtype = Literal["int4", "int8", "float8_e4m3fn", "float8", "fp8", "nvfp4", "mxfp4"]

_SAME = {"float8_e4m3fn": "fp8", "float8": "fp8"}

#: Formats of weights and of inputs that torchao multiplies -> weights that share a scale; 0 for those of a row, None
#: for as many as `group_size` says.
ROUNDINGS: dict[tuple[str, str | None], int | None] = {
    ("int8", None): None,
    ("int8", "int8"): None,
    ("int4", None): None,
    ("int4", "int8"): None,
    ("int4", "fp8"): 128,
    ("fp8", None): 0,
    ("fp8", "fp8"): 0,
    ("nvfp4", None): 16,
    ("nvfp4", "nvfp4"): 16,
    ("mxfp4", "mxfp4"): 32,
}


class _Formats(Section):
    """A format of weights, and one of inputs."""

    weight_dtype: QuantizedDtype
    activation_dtype: QuantizedDtype | None

    @property
    def formats(self) -> tuple[str, str | None]:
        """Formats of weights and of inputs, each by one name."""
        weights, inputs = self.weight_dtype, self.activation_dtype
        return _SAME.get(weights, weights), None if inputs is None else _SAME.get(inputs, inputs)

    @property
    def rounds_to_floats(self) -> bool:
        """Whether the formats are not whole numbers alone."""
        return ROUNDINGS.get(self.formats) is not None


class QatOptions(_Formats):
    """`qat:`, training that feels the rounding to come."""

    weight_dtype: QuantizedDtype = key("Format to which weights are rounded.", "int8")
    activation_dtype: QuantizedDtype | None = key(
        "Format to which the inputs of layers are rounded; none leaves them.", None
    )
    quantize_embedding: Bool = key("Round embeddings too.", False)
    group_size: Int = key("Weights that share a scale, where the format does not say it.", 32, ge=1)
    fake_quant_after_n_steps: Int | None = key("Optimizer steps before rounding begins.", None, ge=0)

    @property
    def weights_per_scale(self) -> int:
        """How many weights in a row share a scale; 0 for all of them."""
        fixed = ROUNDINGS.get(self.formats)
        return self.group_size if fixed is None else fixed


class PtqOptions(_Formats):
    """`quantization:`, rounding once training is over."""

    weight_dtype: QuantizedDtype = key("Format of the weights that `siredon quantize` writes.", "int8")
    activation_dtype: QuantizedDtype | None = key(
        "Format to which the inputs of layers are rounded as the model runs; none leaves them.", None
    )
    quantize_embedding: Bool | None = key("Round embeddings too; not set leaves them.", None)
    group_size: Int | None = key(
        "Weights that share a scale, where the format does not say it; not set: 32 of int4, a row of int8.",
        None,
        ge=1,
    )

    @property
    def weights_per_scale(self) -> int:
        """How many weights in a row share a scale; 0 for all of them."""
        fixed = ROUNDINGS.get(self.formats)
        if fixed is not None:
            return fixed
        return self.group_size or (32 if self.formats[0] == "int4" else 0)


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
        "Frozen weights in few bits, by torchao; with `adapter: lora`.", None
    )
    merge_base: Literal["dequantized", "original"] = key(
        "What an adapter on rounded weights is merged into: those weights, widened, or the unrounded ones.",
        "dequantized",
    )
    qlora_sharded_model_loading: Bool = planned("Quantize shard by shard (QLoRA with FSDP).", False)
    gptq: Bool | None = key("The weights were quantized by GPTQ; with `adapter: lora`.", None)
    use_onebitllms: Bool | None = planned("Three-valued weights, as in BitNet (1.58 bits).")
    model_quantization_config: Literal["Mxfp4Config", "FineGrainedFP8Config"] | None = key(
        "Class of transformers that reads weights quantized by others; they are widened as they are read.",
        None,
    )
    model_quantization_config_kwargs: dict[str, Any] | None = key("Arguments of that class.", None)
    qat: QatOptions | None = key("Training that feels the rounding to come.", None)
    quantization: PtqOptions | None = key("How `siredon quantize` rounds the trained model.", None)
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
