"""What `peft:` takes: the settings of PEFT's classes, by the word of `adapter:`, known without loading PEFT."""

from __future__ import annotations

#: Word of `adapter:` -> the settings of PEFT's class for it that no key of the YAML is for.
OPTIONS: dict[str, tuple[str, ...]] = {
    "lora": ("eva_config", "loftq_config", "velora_config"),
    "oft": (
        "block_share",
        "coft",
        "eps",
        "init_weights",
        "module_dropout",
        "num_cayley_neumann_terms",
        "oft_block_size",
        "r",
        "use_cayley_neumann",
    ),
    "boft": ("boft_block_num", "boft_block_size", "boft_dropout", "init_weights"),
    "vera": ("d_initial", "init_weights", "projection_prng_key", "r", "save_projection", "vera_dropout"),
    "ia3": ("feedforward_modules", "init_ia3_weights"),
    "lokr": (
        "alpha",
        "alpha_pattern",
        "decompose_both",
        "decompose_factor",
        "init_weights",
        "module_dropout",
        "r",
        "rank_dropout",
        "rank_dropout_scale",
        "rank_pattern",
        "use_effective_conv2d",
    ),
    "hra": ("apply_GS", "init_weights", "r"),
    "fourierft": ("init_weights", "n_frequency", "n_frequency_pattern", "random_loc_seed", "scaling"),
    "miss": ("init_weights", "mini_r", "miss_dropout", "r"),
    "delora": ("delora_lambda", "init_weights", "lambda_pattern", "module_dropout", "r", "rank_pattern"),
    "randlora": (
        "init_weights",
        "projection_prng_key",
        "r",
        "randlora_alpha",
        "randlora_dropout",
        "save_projection",
        "sparse",
        "very_sparse",
    ),
    "llama-adapter": ("adapter_layers", "adapter_len"),
}
OPTIONS["qlora"] = OPTIONS["lora"]

#: A setting of PEFT -> the key of the YAML that is for it.
OWN_KEYS = {
    "target_modules": "lora_target_modules",
    "exclude_modules": "lora_exclude_modules",
    "modules_to_save": "lora_modules_to_save",
    "layers_to_transform": "peft_layers_to_transform",
    "layers_pattern": "peft_layers_pattern",
    "lora_dropout": "lora_dropout",
    "lora_alpha": "lora_alpha",
    "use_rslora": "peft_use_rslora",
    "use_dora": "peft_use_dora",
    "init_lora_weights": "peft_init_lora_weights",
    "trainable_token_indices": "peft_trainable_token_indices",
    "layer_replication": "peft_layer_replication",
    "target_parameters": "lora_target_parameters",
    "ensure_weight_tying": "peft_ensure_weight_tying",
}
#: The same, where other adapters have a setting of that name without a key.
OWN_KEYS_OF_LORA = {
    "r": "lora_r",
    "rank_pattern": "lora_rank_pattern",
    "alpha_pattern": "lora_alpha_pattern",
    "bias": "lora_bias",
    "fan_in_fan_out": "lora_fan_in_fan_out",
}

#: Settings that PEFT has and a run cannot use -> why.
REFUSED = {
    "alora_invocation_tokens": "activated LoRA is not built",
    "arrow_config": "routing between adapters is not built",
    "boft_n_butterfly_factor": "more than 1 needs a kernel that PEFT compiles while it is loaded, or sets back to 1",
    "bias": "biases are trained with LoRA only",
    "corda_config": "CorDA is not built",
    "fan_in_fan_out": "the model says how it holds its weights",
    "kasa_config": "KaSA cuts off a part of the base weights",
    "lora_bias": "a bias on B cannot be merged into layers without one",
    "lora_ga_config": "LoRA-GA is not built",
    "megatron_config": "Megatron's layers are not used",
    "megatron_core": "Megatron's layers are not used",
    "monteclora_config": "its part of the loss is not built",
    "qalora_group_size": "QA-LoRA is not built",
    "runtime_config": "it is not saved with the adapter",
    "use_bdlora": "block-diagonal LoRA is not built",
    "use_qalora": "QA-LoRA is not built",
}
#: What belongs to every adapter and is set by the run.
SET_BY_RUN = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)

#: Words for `peft_init_lora_weights`; `pissa_niter_N` beside them.
STARTS = ("gaussian", "pissa", "olora", "orthogonal", "mica", "eva")
#: Words that PEFT knows too.
UNBUILT_STARTS = ("corda", "lora_ga", "loftq")

#: Settings of a mapping in `peft:`.
NESTED = {
    "eva_config": ("adjust_scaling_factors", "rho", "tau", "use_label_mask", "whiten"),
    "loftq_config": ("loftq_bits", "loftq_iter"),
    "velora_config": ("init_type", "num_groups", "scale"),
}
