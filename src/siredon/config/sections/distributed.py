"""Several GPUs: what each holds, and how they talk."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, Str, StrList, planned

StateDictType = Literal["FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"]


class DistributedSection(Section):
    """The mesh of GPUs, and plain data parallelism."""

    dp_shard_size: Int | None = planned("GPUs that share one copy of the weights.")
    dp_replicate_size: Int | None = planned("Copies of the weights.")
    tensor_parallel_size: Int | None = planned("GPUs that share each layer.")
    context_parallel_size: Int | None = planned("GPUs that share each sequence.")
    ring_attn_func: Literal["varlen_llama3", "batch_ring"] | None = planned(
        "Attention across shared sequences: for packed rows, or for others."
    )
    heads_k_stride: Int | None = planned("Key heads sent at a time across shared sequences.")
    ddp: Bool | None = planned("Run under PyTorch's DDP even where it would not be chosen.")
    ddp_timeout: Int | None = planned("Time after which a silent GPU ends the run, in seconds.")
    ddp_bucket_cap_mb: Int | None = planned("Gradients that are sent together, in MB.")
    ddp_broadcast_buffers: Bool = planned("Send buffers to every GPU before each forward pass.", True)
    ddp_find_unused_parameters: Bool | None = planned("Look for weights that took no part in a step.")
    accelerator_config: dict[str, Any] | None = planned("Settings of Accelerate.")


class FsdpOptions(Section):
    """`fsdp_config:`, how weights are sharded."""

    fsdp_version: Int | None = planned("Generation of FSDP, 1 or 2; default 1.")
    reshard_after_forward: Bool | None = planned("Drop gathered weights after each layer, as ZeRO 3 does.")
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP"] | None = planned(
        "What is sharded as one: a block of the model, or so many weights."
    )
    transformer_layer_cls_to_wrap: Str | None = planned("Class of such a block.")
    min_num_params: Int | None = planned("Weights that make a unit, where size decides.")
    offload_params: Bool | None = planned("Hold shards in RAM.")
    cpu_offload_pin_memory: Bool = planned("Pin that RAM; without, it may be swapped (FSDP2).", True)
    cpu_ram_efficient_loading: Bool | None = planned("One process reads the weights and sends them on.")
    sync_module_states: Bool | None = planned("Start from the weights of the first process (FSDP1).")
    use_orig_params: Bool | None = planned("Keep the model's own parameters visible (FSDP1).")
    activation_checkpointing: Bool | None = planned("Recompute activations, as FSDP does it.")
    mixed_precision_policy: Str | None = planned("Number format of computing.")
    state_dict_type: StateDictType | None = planned("How checkpoints hold the weights: whole or in shards.")
    final_state_dict_type: StateDictType | None = planned("The same for the last save.")


class FsdpSection(Section):
    """Fully sharded data parallelism."""

    fsdp_version: Int | None = planned("Generation of FSDP, 1 or 2; default 1.")
    fsdp_config: FsdpOptions | None = planned("How weights are sharded.")
    fsdp: StrList | None = planned("Flags of FSDP1, such as `full_shard` and `auto_wrap`.")


class DeepspeedSection(Section):
    """DeepSpeed."""

    deepspeed: Str | dict[str, Any] | None = planned("File of DeepSpeed's settings, or the settings.")
    deepcompile: Bool | None = planned("Let DeepSpeed compile the model.")
