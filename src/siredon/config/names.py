"""Keys of the reference that have another name here, or none at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rename:
    """What became of an old key.

    Args:
        new: The key to use, in the same place; behind a dot, a key inside that one.
        value: What `new` is set to when the old key, a switch, is true; none carries the old value over.
        reason: Why, in one line.
    """

    new: str
    value: object | None
    reason: str


_SPELLING = "The same key; the schema of the reference spells it so."
_ONE_SWITCH = "One key names the implementation of attention, not a switch for each."
_ONE_BACKEND = "One key names the kernels of experts."
_TYPO = "A slip of the pen in an example; nothing read it."
_UNSLOTH = "These kernels are part of the trainer now."
_COMPUTED = "Delete it: Siredon computes it."
_GPTQ = "Delete it: the weights say themselves how they were quantized."
_MAPPING = "One mapping for all properties of a message."
_OWN_CONFIG = "Delete it: nothing depends on a model's name, its own config says what it is."
_LEGACY_CHAT = "Delete it, and use `type: chat_template` with `message_property_mappings`."

_PREFIX = "Inside `fsdp_config` the prefix says nothing."
_INNER = (
    "activation_checkpointing",
    "auto_wrap_policy",
    "cpu_offload_pin_memory",
    "cpu_ram_efficient_loading",
    "final_state_dict_type",
    "min_num_params",
    "mixed_precision_policy",
    "offload_params",
    "reshard_after_forward",
    "state_dict_type",
    "sync_module_states",
    "transformer_layer_cls_to_wrap",
    "use_orig_params",
)

#: Old key -> the key to use.  A name with a dot is one inside that mapping only.
RENAMED: dict[str, Rename] = {
    # Spellings
    "type_of_model": Rename("model_type", None, _SPELLING),
    "revision_of_model": Rename("model_revision", None, _SPELLING),
    "overrides_of_model_config": Rename("model_config", None, _SPELLING),
    "overrides_of_model_kwargs": Rename("model_kwargs", None, _SPELLING),
    "rope_scaling": Rename("model_config.rope_scaling", None, "It is a setting of the model's own."),
    "adam_eps": Rename("adam_epsilon", None, "The reference ignored this spelling."),
    "context_parapllel_size": Rename("context_parallel_size", None, _TYPO),
    # Attention
    "flash_attention": Rename("attn_implementation", "flash_attention_2", _ONE_SWITCH),
    "sdp_attention": Rename("attn_implementation", "sdpa", _ONE_SWITCH),
    "xformers_attention": Rename("attn_implementation", "xformers", _ONE_SWITCH),
    "flex_attention": Rename("attn_implementation", "flex_attention", _ONE_SWITCH),
    "sage_attention": Rename("attn_implementation", "sage", _ONE_SWITCH),
    "eager_attention": Rename("attn_implementation", "eager", _ONE_SWITCH),
    "flash_optimum": Rename("attn_implementation", "sdpa", "PyTorch has these kernels by now."),
    "flash_attn_d512": Rename("large_head_attention", "triton_flash", "There is more than one way by now."),
    # Kernels
    "flash_attn_rms_norm": Rename("liger_rms_norm", True, "flash-attn dropped this kernel."),
    "liger_swiglu": Rename("liger_glu_activation", None, "It covers GeGLU too."),
    "use_scattermoe": Rename("expert_backend", "scattermoe", _ONE_BACKEND),
    "use_sonicmoe": Rename("expert_backend", "sonicmoe", _ONE_BACKEND),
    "unsloth_lora_mlp": Rename("lora_mlp_kernel", None, _UNSLOTH),
    "unsloth_lora_qkv": Rename("lora_qkv_kernel", None, _UNSLOTH),
    "unsloth_lora_o": Rename("lora_o_kernel", None, _UNSLOTH),
    # Data
    "dataset_processes": Rename("dataset_num_proc", None, "The name that `datasets` uses."),
    "pretrain_multipack_buffer_size": Rename(
        "streaming_multipack_buffer_size", None, "It holds for every kind of streaming."
    ),
    "message_field_role": Rename("message_property_mappings.role", None, _MAPPING),
    "message_field_content": Rename("message_property_mappings.content", None, _MAPPING),
    # Training
    "noisy_embedding_alpha": Rename("neftune_noise_alpha", None, "The method is called NEFTune."),
    "dpo_beta": Rename("rl_beta", None, "Other methods have a beta too."),
    "evaluation_strategy": Rename("eval_strategy", None, "The name that transformers uses."),
    "relora_steps": Rename("jagged_restart_steps", None, "Restarts are a part of the schedule."),
    "relora_warmup_steps": Rename(
        "jagged_restart_warmup_steps", None, "Restarts are a part of the schedule."
    ),
    "relora_anneal_steps": Rename(
        "jagged_restart_anneal_steps", None, "Restarts are a part of the schedule."
    ),
    # Several GPUs
    "fsdp_config.version": Rename("fsdp_version", None, "It has one name everywhere."),
    **{f"fsdp_config.fsdp_{name}": Rename(name, None, _PREFIX) for name in _INNER},
    "fsdp_final_state_dict_type": Rename(
        "fsdp_config.final_state_dict_type", None, "The other settings of FSDP are there."
    ),
    "sequence_parallel_degree": Rename("context_parallel_size", None, "Every axis of the mesh is a `_size`."),
}

#: Key and its old value -> the keys to set instead.
RENAMED_VALUES: dict[tuple[str, str], dict[str, object]] = {
    ("gradient_checkpointing", "offload"): {"gradient_checkpointing": True, "activation_offloading": True},
    ("gradient_checkpointing", "offload_disk"): {
        "gradient_checkpointing": True,
        "activation_offloading": "disk",
    },
}

_FSDP1 = (
    "Delete it: neither generation of FSDP needs it. What is kept between passes is `reshard_after_forward`."
)

#: Keys that do nothing -> what to do.  They are passed over, with a warning.
INERT: dict[str, str] = {
    "is_preprocess": _COMPUTED,
    "total_num_tokens": _COMPUTED,
    "total_supervised_tokens": _COMPUTED,
    "axolotl_config_path": _COMPUTED,
    "device": _COMPUTED,
    "world_size": _COMPUTED,
    "local_rank": _COMPUTED,
    "preprocess_iterable": "Delete it, and set `streaming: true` for data that is read while training.",
    "torch_dtype": "Delete it, and set `bf16`, `fp16` or `float32` to true.",
    "base_model_ignore_patterns": "Delete it: only the files that a model needs are fetched.",
    "full_finetune": "Delete it: without `adapter` every weight is trained.",
    "gptq_groupsize": _GPTQ,
    "gptq_model_v1": _GPTQ,
    "gptq_disable_exllama": "Delete it: the GPTQ library chooses its kernels.",
    "sample_packing_seq_len_multiplier": "Delete it, and set `micro_batch_size`: packs per device and step.",
    "eta_min": "Delete it, and set `cosine_min_lr_ratio` to `eta_min / learning_rate`.",
    "lr_div_factor": "Delete it: nothing read it. The schedule's settings are `lr_scheduler_kwargs`.",
    "debug": "Delete it: looking at prepared rows is a command.",
    "is_falcon_derived_model": _OWN_CONFIG,
    "is_llama_derived_model": _OWN_CONFIG,
    "is_mistral_derived_model": _OWN_CONFIG + " On which side a row is padded makes no difference to it.",
    "is_qwen_derived_model": _OWN_CONFIG,
    "tokenizer_use_fast": "Delete it: transformers has one tokenizer of each kind, the fast one where it can.",
    "low_cpu_mem_usage": "Delete it: weights are never held twice in RAM.",
    "experimental_skip_move_to_device": "Delete it: `device_map` says where weights lie, without it they go to the "
    "device once they are read.",
    "torchdistx_path": "Delete it: torchdistx is no longer maintained, and `adamw_anyprecision` went with it.",
    **{
        f"fsdp_config.{prefix}{name}": _FSDP1
        for name in ("sharding_strategy", "limit_all_gathers", "backward_prefetch", "forward_prefetch")
        for prefix in ("", "fsdp_")
    },
}

#: Those of them that ask for nothing where they are true, not where they are false.
INERT_BUT_FALSE = ("tokenizer_use_fast", "low_cpu_mem_usage", "experimental_skip_move_to_device")

#: Keys of other tools -> ours, to be suggested.
FOREIGN: dict[str, str] = {
    "lr": "learning_rate",
    "model": "base_model",
    "model_name_or_path": "base_model",
    "tokenizer": "tokenizer_config",
    "max_seq_length": "sequence_len",
    "max_seq_len": "sequence_len",
    "max_length": "sequence_len",
    "cutoff_len": "sequence_len",
    "packing": "sample_packing",
    "dataset": "datasets",
    "r": "lora_r",
    "lora_rank": "lora_r",
    "alpha": "lora_alpha",
    "target_modules": "lora_target_modules",
    "lora_target": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "per_device_train_batch_size": "micro_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "num_train_epochs": "num_epochs",
    "epochs": "num_epochs",
    "optim": "optimizer",
    "lr_scheduler_type": "lr_scheduler",
    "template": "chat_template",
    "run_name": "wandb_name",
    "train_on_split": "split",
    "report_to": "use_wandb",
    "fp32": "float32",
    "ref_model": "reference_model",
    "ref_model_adapters": "reference_adapter",
    "logging_first_step": "logging_steps",
}

#: Old key -> what to do instead.
REMOVED: dict[str, str] = {
    "merge_lora": "Delete it: merging is a command.",
    # Model and adapter
    "s2_attention": "Delete it: shifted attention is gone. For long rows, see `context_parallel_size`.",
    "unsloth_cross_entropy_loss": "Delete it, and set `cut_cross_entropy: true`.",
    "unsloth_rms_norm": "Delete it, and set `liger_rms_norm: true`.",
    "unsloth_rope": "Delete it, and set `liger_rope: true`.",
    # Data
    "max_packed_sequence_len": "Delete it, and set `sample_packing: true` with `sequence_len`.",
    "conversation": _LEGACY_CHAT,
    "input_format": _LEGACY_CHAT,
    "field_human": _LEGACY_CHAT,
    "field_model": _LEGACY_CHAT,
    # Training
    "gc_steps": "Delete it, and set `torch_empty_cache_steps` and `gc_collect_steps`.",
    # Preferences
    "rpo_alpha": "Delete it; `dpo_loss_type: [sigmoid, sft]` with `dpo_loss_weights` is the same.",
    "dpo_norm_loss": "Delete it: TRL no longer has it.",
    "dpo_use_logits_to_keep": "Delete it: TRL no longer has it.",
    "dpo_generate_during_eval": "Delete it: TRL no longer has it. See `generate_samples`.",
}


def yaml_word(value: object) -> str:
    """A value as a YAML file spells it: true and false in small letters."""
    return str(value).lower() if isinstance(value, bool) else str(value)
