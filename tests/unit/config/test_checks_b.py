"""The branches of the rules SD0301 to SD0399 that their examples do not reach, and `idle.py`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.unit.config.texts import check, without_unbuilt

from siredon.config.diagnostics import Diagnostic
from siredon.config.idle import find_idle_keys, find_useless_keys, keys_but, keys_set, list_keys
from siredon.config.sections.ray import RaySection

LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
QUERIES = LORA.replace("lora_target_linear: true", "lora_target_modules: [q_proj]")
QLORA = LORA.replace("adapter: lora", "adapter: qlora\nload_in_4bit: true")
LLAMA = "adapter: llama-adapter\npeft: {adapter_len: 4, adapter_layers: 2}\n"
FSDP1 = "fsdp_version: 1\nfsdp_config:\n  reshard_after_forward: true\n"
FSDP2 = FSDP1.replace("1", "2")
OFFLOAD = "  offload_params: true\n"
ZERO2 = "deepspeed: zero2.json\n"
GRPO = "rl: grpo\ntrl:\n  reward_funcs: [rewards.score]\n"
VLLM = GRPO + "  use_vllm: true\n"
PISSA = "peft_init_lora_weights: pissa\n"
LOKR = "adapter: lokr\nlora_target_linear: true\n"
EVA = LORA + "peft_init_lora_weights: eva\n"
NITER = LORA + "peft_init_lora_weights: pissa_niter_16\n"
ODD = LORA.replace("lora_r: 8", "lora_r: 7") + "peft_init_lora_weights: "
STACK = LORA + "peft_layer_replication: [[0, 2], [1, 3]]\n"
LOFTQ = LORA + "peft: {loftq_config: {loftq_bits: 4}}\n"
RELORA = LORA + "relora: true\njagged_restart_steps: 500\n"
GYM = "rl: grpo\nnemo_gym_enabled: true\nnemo_gym_datasets:\n  - path: a\nnemo_gym_auto_start: false\n"
EBFT = "rl: ebft\nebft:\n  embed_method: mean_pooling\n"
STRIDED = "rl: ebft\nebft:\n  mode: strided\n"
RECORDED = "torch_compile: true\ntorch_compile_options:\n  triton.cudagraphs: true\n"
FLEX = "attn_implementation: flex_attention\n"
SHARED = "context_parallel_size: 2\nattn_implementation: flash_attention_3\n"
CHECKPOINTING = "gradient_checkpointing: true\ngradient_checkpointing_kwargs:\n  use_reentrant: "
AWARE = QUERIES + "nvfp4_merge_aware: true\nexpert_backend: sonicmoe\n"
GALORE = "optimizer: galore_adamw_layerwise\noptim_target_modules: [mlp]\n"
Q_GALORE = "optimizer: q_galore_adamw8bit\n"
EXPERTS = QUERIES + "quantize_moe_experts: true\n"


@dataclass(frozen=True)
class Case:
    """A text that breaks a rule at `key`, and one like it that has no problem."""

    code: str
    key: str
    bad: str
    good: str
    severity: str = "error"


def idle(code: str, key: str, bad: str, good: str) -> Case:
    return Case(code, key, bad, good, "warning")


ADAPTERS = [
    Case("SD0301", "adapter", LORA.replace("lora", "qlora", 1), QLORA),
    Case("SD0301", "adapter", QLORA.replace("4bit", "8bit"), LORA + "load_in_8bit: true\n"),
    Case("SD0301", "load_in_4bit", "load_in_4bit: true\n", "load_in_4bit: false\n"),
    Case("SD0301", "load_in_8bit", "load_in_8bit: true\n", LORA + "load_in_8bit: true\n"),
    Case("SD0301", "adapter", LLAMA + "load_in_8bit: true\n", LLAMA),
    Case(
        "SD0302",
        "model_quantization_config",
        LORA + "load_in_8bit: true\nmodel_quantization_config: Mxfp4Config\n",
        LORA + "model_quantization_config: Mxfp4Config\n",
    ),
    idle("SD0303", "lora_rank_pattern", "lora_rank_pattern: {q_proj: 4}\n", "lora_rank_pattern: {}\n"),
    idle("SD0303", "loraplus_lr_ratio", "loraplus_lr_ratio: 16\n", LORA + "loraplus_lr_ratio: 16\n"),
    idle("SD0303", "lora_mlp_kernel", "lora_mlp_kernel: true\n", "lora_mlp_kernel: false\n"),
    idle(
        "SD0303",
        "loraplus_lr_embedding",
        LORA + "loraplus_lr_embedding: 1e-5\n",
        LORA + "loraplus_lr_ratio: 16\nloraplus_lr_embedding: 1e-5\n",
    ),
    idle(
        "SD0303",
        "qlora_sharded_model_loading",
        LORA + "qlora_sharded_model_loading: true\n",
        QLORA + "qlora_sharded_model_loading: true\n",
    ),
    idle(
        "SD0303",
        "bnb_config_kwargs",
        LORA + "bnb_config_kwargs: {bnb_4bit_quant_type: fp4}\n",
        QLORA + "bnb_config_kwargs: {bnb_4bit_quant_type: fp4}\n",
    ),
    idle(
        "SD0303",
        "model_quantization_config_kwargs",
        "model_quantization_config_kwargs: {dequantize: true}\n",
        "model_quantization_config_kwargs: {dequantize: true}\nmodel_quantization_config: Mxfp4Config\n",
    ),
    idle(
        "SD0303",
        "relora_prune_ratio",
        LORA + "relora_prune_ratio: 0.5\n",
        RELORA + "relora_prune_ratio: 0.5\n",
    ),
    Case(
        "SD0304",
        "peft_use_dora",
        LORA + "lora_target_parameters: [experts.w]\npeft_use_dora: true\n",
        LORA + "peft_use_dora: true\n",
    ),
    Case(
        "SD0304",
        "lora_fan_in_fan_out",
        LORA + "lora_target_parameters: [experts.w]\nlora_fan_in_fan_out: true\n",
        LORA + "lora_fan_in_fan_out: true\n",
    ),
    Case(
        "SD0306",
        "lora_target_modules.1",
        QUERIES.replace("[q_proj]", "[q_proj, '*_proj']"),
        QUERIES.replace("[q_proj]", "[model.layers.0.q_proj, '.*_proj']"),
    ),
    Case(
        "SD0306",
        "lora_rank_pattern",
        LORA + "lora_rank_pattern: {'layers.[0-': 4}\n",
        LORA + "lora_rank_pattern: {'layers.[0-9].': 4}\n",
    ),
    Case(
        "SD0306",
        "lora_alpha_pattern",
        LORA + "lora_alpha_pattern: {'(q': 4}\n",
        LORA + "lora_alpha_pattern: {q: 4}\n",
    ),
    Case(
        "SD0306",
        "unfrozen_parameters.0",
        "unfrozen_parameters: ['embed(_tokens']\n",
        "unfrozen_parameters: ['^embed_tokens.weight$[:128]', 'layers.[5]', 'head[2:]']\n",
    ),
    Case(
        "SD0307",
        "spectrum_top_fraction",
        LORA + "spectrum_top_fraction: 0.25\n",
        "spectrum_top_fraction: 0.25\n",
    ),
    Case(
        "SD0307",
        "lisa_n_layers",
        LORA + "lisa_n_layers: 2\nlisa_step_interval: 20\n",
        "lisa_n_layers: 2\nlisa_step_interval: 20\n",
    ),
    Case(
        "SD0307",
        "unfrozen_parameters",
        "spectrum_top_fraction: 0.25\nunfrozen_parameters: [lm_head]\n",
        "spectrum_model_name: a/b\nspectrum_top_fraction: 0.25\n",
    ),
    Case(
        "SD0308", "lisa_step_interval", "lisa_step_interval: 9\n", "lisa_step_interval: 9\nlisa_n_layers: 2\n"
    ),
    idle(
        "SD0308",
        "lisa_layers_attribute",
        "lisa_layers_attribute: h\n",
        "lisa_layers_attribute: h\nlisa_step_interval: 9\nlisa_n_layers: 2\n",
    ),
    Case("SD0530", "lora_alpha", LOKR + "lora_alpha: 8\n", LOKR + "peft: {alpha: 8}\n"),
    Case("SD0530", "peft_use_dora", LOKR + "peft_use_dora: true\n", LOKR + "peft_use_dora: false\n"),
    Case("SD0530", "lora_target_linear", LLAMA + "lora_target_linear: true\n", LLAMA),
    Case("SD0531", "peft", "peft: {r: 8}\n", LOKR + "peft: {r: 8}\n"),
    Case("SD0531", "peft.r", LORA + "peft: {r: 8}\n", LORA),
    Case("SD0531", "peft.bias", LOKR + "peft: {bias: all}\n", LORA + "lora_bias: all\n"),
    Case("SD0531", "peft.task_type", LOKR + "peft: {task_type: CAUSAL_LM}\n", LOKR),
    Case("SD0531", "peft.eva_config", EVA + "peft: {eva_config: 2}\n", EVA),
    Case("SD0531", "peft.eva_config.rhoo", EVA + "peft: {eva_config: {rhoo: 1}}\n", EVA),
    Case("SD0532", "peft_init_lora_weights", LORA + "peft_init_lora_weights: corda\n", LORA),
    Case("SD0532", "peft_init_lora_weights", LORA + "peft_init_lora_weights: loftq\n", LORA),
    Case("SD0532", "peft_init_lora_weights", LORA + "peft_init_lora_weights: pissa_niter_x\n", NITER),
    Case("SD0532", "lora_r", ODD + "orthogonal\n", ODD + "gaussian\n"),
    Case("SD0532", "peft_init_lora_weights", EVA + "lora_target_parameters: [experts.w]\n", EVA),
    Case("SD0532", "peft_init_lora_weights", EVA + "peft_use_dora: true\n", EVA),
    Case(
        "SD0532",
        "peft.eva_config",
        LORA + "peft: {eva_config: {rho: 1}}\n",
        EVA + "peft: {eva_config: {rho: 1}}\n",
    ),
    Case(
        "SD0533",
        "peft_trainable_token_indices",
        LORA + "peft_trainable_token_indices: [5]\nlora_modules_to_save: [embed_tokens]\n",
        LORA + "peft_trainable_token_indices: [5]\n",
    ),
    Case("SD0534", "lora_model_dir", LORA + "lora_model_dir: no/such/folder\n", LORA),
    Case("SD0536", "lora_target_modules", STACK + "lora_target_modules: [q_proj]\n", STACK),
    Case("SD0537", "adapter", "adapter: llama-adapter\npeft: {adapter_layers: 2}\n", LLAMA),
    Case("SD0538", "peft.loftq_config.loftq_iter", LORA + "peft: {loftq_config: {loftq_iter: 2}}\n", LOFTQ),
    Case("SD0538", "peft_use_dora", LOFTQ + "peft_use_dora: true\n", LOFTQ),
    Case("SD0541", "peft_init_lora_weights", QLORA + "peft_init_lora_weights: pissa\n", LORA + PISSA),
    Case("SD0309", "relora", "relora: true\njagged_restart_steps: 500\n", RELORA),
    Case("SD0309", "relora", RELORA + FSDP2, RELORA + "ddp: true\n"),
    Case("SD0309", "relora", RELORA + ZERO2, RELORA),
    Case("SD0309", "lr_scheduler", RELORA + "lr_scheduler: one_cycle\n", RELORA + "lr_scheduler: cosine\n"),
    Case(
        "SD0311",
        "peft.loftq_config",
        QLORA + "peft:\n  loftq_config:\n    loftq_bits: 4\n",
        QLORA + "peft_init_lora_weights: gaussian\n",
    ),
    idle(
        "SD0312",
        "peft_trainable_token_indices",
        LORA + "fix_untrained_tokens: 9\npeft_trainable_token_indices:\n  embed_tokens: [7, 8]\n",
        LORA + "fix_untrained_tokens: 8\npeft_trainable_token_indices:\n  embed_tokens: [7, 8]\n",
    ),
]

PREFERENCES = [
    Case("SD0313", "kd_trainer", "kd_trainer: true\nreward_model: true\n", "reward_model: true\n"),
    Case(
        "SD0313",
        "diffusion",
        "rl: dpo\ndiffusion:\n  eps: 0.01\n",
        "diffusion:\n  eps: 0.01\n",
    ),
    Case("SD0313", "kd_trainer", "kd_trainer: true\ndiffusion:\n  eps: 0.01\n", "kd_trainer: true\n"),
    Case(
        "SD0314",
        "eval_sample_packing",
        "rl: grpo\ntrl:\n  reward_funcs: [rewards.score]\neval_sample_packing: true\n",
        "rl: grpo\ntrl:\n  reward_funcs: [rewards.score]\n",
    ),
    Case(
        "SD0314",
        "sample_packing",
        "rl: grpo\ntrl:\n  reward_funcs: [rewards.score]\nsample_packing: true\n",
        "reward_model: true\nsample_packing: true\n",
    ),
    idle("SD0315", "rl_beta", "rl_beta: 0.1\n", "rl: grpo\nrl_beta: 0.1\ntrl:\n  reward_funcs: a.b\n"),
    idle(
        "SD0315",
        "dpo_label_smoothing",
        "rl: ipo\ndpo_label_smoothing: 0.1\n",
        "rl: dpo\ndpo_label_smoothing: 0.1\n",
    ),
    idle(
        "SD0315",
        "precompute_ref_log_probs",
        "rl: orpo\nprecompute_ref_log_probs: true\n",
        "rl: kto\nprecompute_ref_log_probs: true\n",
    ),
    idle("SD0315", "dpo_use_weighting", "dpo_use_weighting: true\n", "rl: ipo\ndpo_use_weighting: true\n"),
    idle(
        "SD0315",
        "simpo_gamma",
        "rl: dpo\nsimpo_gamma: 0.5\n",
        "rl: simpo\nrl_beta: 2\nsimpo_gamma: 0.5\ncpo_alpha: 1\n",
    ),
    idle(
        "SD0315",
        "kto_desirable_weight",
        "rl: dpo\nkto_desirable_weight: 2.0\n",
        "rl: kto\nkto_desirable_weight: 2.0\n",
    ),
    idle("SD0315", "trl", "trl:\n  temperature: 0.5\n", GRPO + "  temperature: 0.5\n"),
    idle("SD0315", "trl.temperature", "rl: dpo\ntrl:\n  temperature: 0.5\n", "rl: dpo\ntrl:\n  beta: 0.5\n"),
    idle("SD0315", "ebft", GRPO + "ebft:\n  mode: strided\n", STRIDED),
    idle("SD0315", "num_labels", "num_labels: 3\n", "process_reward_model: true\nnum_labels: 2\n"),
    idle(
        "SD0315",
        "num_labels",
        "num_labels: 3\nmodel_type: AutoModel\n",
        "num_labels: 3\nmodel_type: AutoModelForSequenceClassification\n",
    ),
    Case(
        "SD0316",
        "dpo_loss_type",
        "rl: ipo\ndpo_loss_type: [sigmoid]\n",
        "rl: dpo\ndpo_loss_type: [sigmoid]\n",
    ),
    Case(
        "SD0316",
        "dpo_loss_type",
        "dpo_loss_type: [sigmoid]\ndpo_loss_weights: [1]\n",
        "rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_loss_weights: [1]\n",
    ),
    Case("SD0316", "dpo_loss_weights", "rl: dpo\ndpo_loss_weights: [1]\n", "rl: dpo\n"),
    Case(
        "SD0317",
        "orpo_alpha",
        "rl: orpo\nrl_beta: 0.2\norpo_alpha: 0.1\n",
        "rl: orpo\nrl_beta: 0.1\norpo_alpha: 0.1\n",
    ),
    Case("SD0317", "trl.beta", GRPO + "  beta: 0.2\nrl_beta: 0.1\n", GRPO + "  beta: 0.1\nrl_beta: 0.1\n"),
    Case(
        "SD0318",
        "trl.generation_batch_size",
        GRPO + "  num_generations: 4\n  generation_batch_size: 6\n",
        GRPO + "  num_generations: 4\n  generation_batch_size: 8\n",
    ),
    idle(
        "SD0318",
        "trl.num_generations",
        GRPO + "  num_generations: 8\nmicro_batch_size: 6\ngradient_accumulation_steps: 2\n",
        GRPO + "  num_generations: 8\nmicro_batch_size: 6\ngradient_accumulation_steps: 4\n",
    ),
    Case(
        "SD0319",
        "trl",
        "rl: gdpo\ntrl:\n  temperature: 0.5\n",
        "rl: gdpo\ntrl:\n  temperature: 0.5\nhatchery:\n  lora_rank: 16\n",
    ),
    Case("SD0319", "rl", "rl: grpo\n", "rl: grpo\ntrainer_cls: my.Trainer\n"),
    Case(
        "SD0319", "trl.reward_weights", GRPO + "  reward_weights: [1, 2]\n", GRPO + "  reward_weights: [1]\n"
    ),
    idle(
        "SD0322",
        "trl.vllm_server_port",
        GRPO + "  vllm_server_port: 9000\n",
        VLLM + "  vllm_server_port: 9000\n",
    ),
    idle(
        "SD0322",
        "trl.vllm_server_port",
        VLLM + "  vllm_mode: colocate\n  vllm_server_port: 9000\n",
        VLLM + "  vllm_mode: server\n  vllm_server_port: 9000\n",
    ),
    idle(
        "SD0322",
        "trl.vllm_enable_sleep_mode",
        VLLM + "  vllm_enable_sleep_mode: true\n",
        VLLM + "  vllm_mode: colocate\n  vllm_enable_sleep_mode: true\n",
    ),
    idle(
        "SD0322",
        "trl.prefetch_depth",
        VLLM + "  prefetch_depth: 2\n",
        VLLM + "  prefetch_depth: 2\n  async_prefetch: true\n",
    ),
    idle(
        "SD0322",
        "trl.ref_model_sync_steps",
        GRPO + "  ref_model_sync_steps: 9\n",
        GRPO + "  ref_model_sync_steps: 9\n  sync_ref_model: true\n",
    ),
    idle(
        "SD0322",
        "trl.num_completions_to_print",
        GRPO + "  num_completions_to_print: 9\n",
        GRPO + "  num_completions_to_print: 9\n  log_completions: true\n",
    ),
    idle("SD0323", "ebft.stride", EBFT + "  stride: 4\n", STRIDED + "  stride: 4\n"),
    idle("SD0324", "torch_compile", STRIDED + "torch_compile: true\n", EBFT + "torch_compile: true\n"),
    Case(
        "SD0324",
        "activation_offloading",
        STRIDED + FLEX + "gradient_checkpointing: true\nactivation_offloading: disk\n",
        STRIDED + FLEX + "gradient_checkpointing: true\n",
    ),
]

OPTIMIZERS = [
    idle(
        "SD0326",
        "adam_beta2",
        "optimizer: adafactor\nadam_beta2: 0.95\n",
        "optimizer: muon\nadam_beta2: 0.95\n",
    ),
    idle(
        "SD0326", "adam_epsilon2", "adam_epsilon2: 1e-16\n", "optimizer: came_pytorch\nadam_epsilon2: 1e-16\n"
    ),
    idle("SD0326", "qgalore_rank", "qgalore_rank: 64\n", Q_GALORE + "qgalore_rank: 64\n"),
    idle(
        "SD0326",
        "optim_target_modules",
        "optim_target_modules: [mlp]\n",
        Q_GALORE + "optim_target_modules: [mlp]\n",
    ),
    Case(
        "SD0327",
        "gradient_accumulation_steps",
        GALORE + "gradient_accumulation_steps: 2\n",
        GALORE.replace("_layerwise", "") + "gradient_accumulation_steps: 2\n",
    ),
    Case("SD0327", "optimizer", "optimizer: apollo_adamw\n", Q_GALORE),
    Case("SD0328", "optimizer", "optimizer: flash_adamw\n" + ZERO2, "optimizer: flash_adamw\n"),
    Case("SD0328", "optimizer", Q_GALORE + ZERO2, Q_GALORE),
    Case(
        "SD0328",
        "fsdp_version",
        Q_GALORE + FSDP1 + "  use_orig_params: true\n",
        Q_GALORE + FSDP2 + "  use_orig_params: true\n",
    ),
    Case("SD0329", "fsdp_config", Q_GALORE + FSDP2, Q_GALORE + FSDP2 + "  use_orig_params: true\n"),
    idle("SD0329", "optimizer", Q_GALORE + "bf16: false\n", Q_GALORE + "bf16: false\nfloat16: true\n"),
    Case(
        "SD0330",
        "optimizer",
        FSDP1 + OFFLOAD + "optimizer: adamw_torch_8bit\n",
        FSDP2 + OFFLOAD + "optimizer: adamw_torch_8bit\n",
    ),
    Case(
        "SD0331", "optimizer", "tensor_parallel_size: 2\noptimizer: adamw_8bit\n", "optimizer: adamw_8bit\n"
    ),
    Case(
        "SD0332",
        "embedding_lr_scale",
        "embedding_lr: 1e-5\nembedding_lr_scale: 0.5\n",
        "embedding_lr: 1e-5\n",
    ),
    Case(
        "SD0332",
        "embedding_lr",
        LORA + "loraplus_lr_ratio: 16\nembedding_lr: 1e-5\n",
        LORA + "embedding_lr: 1e-5\n",
    ),
]

ATTENTION = [
    idle(
        "SD0334",
        "flex_attn_compile_kwargs",
        "flex_attn_compile_kwargs: {dynamic: false}\n",
        FLEX + "flex_attn_compile_kwargs: {dynamic: false}\n",
    ),
    idle(
        "SD0334",
        "scaling_softmax_bias",
        FLEX + "scaling_softmax_bias: 0.5\n",
        FLEX + "scaling_softmax_bias: 0.5\nscaling_softmax: true\n",
    ),
    idle("SD0334", "sdpa_varlen", "sdpa_varlen: true\n", "sdpa_varlen: true\nsample_packing: true\n"),
    idle(
        "SD0334",
        "sdpa_varlen",
        "sdpa_varlen: true\nsample_packing: true\n" + FLEX,
        "sample_packing: true\n" + FLEX,
    ),
    idle(
        "SD0334",
        "chunked_cross_entropy_num_chunks",
        "chunked_cross_entropy: false\nchunked_cross_entropy_num_chunks: 4\n",
        "chunked_cross_entropy: true\nchunked_cross_entropy_num_chunks: 4\n",
    ),
    Case(
        "SD0336",
        "batch_flattening",
        "batch_flattening: true\nsample_packing: true\n",
        "batch_flattening: auto\nsample_packing: true\n",
    ),
    idle(
        "SD0336",
        "batch_flattening",
        GRPO + "  use_liger_loss: true\nbatch_flattening: true\nmicro_batch_size: 4\n",
        GRPO + "  use_liger_loss: true\nmicro_batch_size: 4\n",
    ),
    Case("SD0700", "attn_implementation", "attn_implementation: fp8\n", "attn_implementation: eager\n"),
    Case(
        "SD0702",
        "torch_compile_options",
        RECORDED + "activation_offloading: true\ngradient_checkpointing: true\n",
        RECORDED + "gradient_accumulation_steps: 2\n",
    ),
    Case(
        "SD0338",
        "attn_implementation",
        "gemma4_hybrid_attn_impl: true\n" + FLEX,
        "gemma4_hybrid_attn_impl: true\n",
    ),
    Case(
        "SD0339",
        "chunked_cross_entropy",
        "chunked_cross_entropy: true\ncut_cross_entropy: true\n",
        "chunked_cross_entropy: true\ncut_cross_entropy: false\n",
    ),
    Case(
        "SD0339",
        "liger_cross_entropy",
        "flash_attn_cross_entropy: true\nliger_cross_entropy: true\n",
        "liger_cross_entropy: true\n",
    ),
    Case(
        "SD0576",
        "liger_fused_linear_cross_entropy",
        "liger_fused_linear_cross_entropy: true\nchunked_cross_entropy: false\n",
        "liger_fused_linear_cross_entropy: false\nchunked_cross_entropy: true\n",
    ),
    Case(
        "SD0342",
        "liger_fused_linear_cross_entropy",
        "liger_fused_linear_cross_entropy: true\ntensor_parallel_size: 2\n",
        "liger_fused_linear_cross_entropy: true\ntensor_parallel_size: 1\n",
    ),
    Case(
        "SD0344",
        "lora_qkv_kernel",
        LORA + "lora_qkv_kernel: true\nlora_o_kernel: true\ntrust_remote_code: true\n",
        LORA + "lora_embedding_kernel: true\ntrust_remote_code: true\n",
    ),
    Case(
        "SD0344",
        "lora_embedding_kernel",
        LORA + FSDP1 + "lora_embedding_kernel: true\n",
        LORA + FSDP2 + "lora_embedding_kernel: true\n",
    ),
    Case("SD0345", "use_onebitllms", LORA + "use_onebitllms: true\n", "use_onebitllms: true\n"),
]

DISTRIBUTED = [
    Case("SD0346", "fsdp", "fsdp: [full_shard]\nfsdp_version: 1\n" + ZERO2, ZERO2),
    idle("SD0348", "fsdp", "fsdp: [full_shard]\n", "fsdp: [full_shard]\nfsdp_version: 1\n"),
    idle("SD0348", "fsdp_version", "fsdp_version: 2\n", FSDP2),
    Case("SD0348", "fsdp_version", FSDP2.replace("2", "3"), FSDP2),
    Case("SD0348", "fsdp_config.fsdp_version", FSDP2 + "  fsdp_version: 1\n", FSDP2 + "  fsdp_version: 2\n"),
    idle(
        "SD0349",
        "fsdp_config.min_num_params",
        FSDP2 + "  min_num_params: 9\n",
        FSDP2 + "  min_num_params: 9\n  auto_wrap_policy: SIZE_BASED_WRAP\n",
    ),
    Case("SD0350", "fp32_norms", FSDP1 + "fp32_norms: true\n", FSDP2 + "fp32_norms: true\n"),
    idle(
        "SD0350",
        "fp32_norm_classes",
        "fp32_norm_classes: [RMSNorm]\n",
        FSDP2 + "fp32_norms: true\nfp32_norm_classes: [RMSNorm]\n",
    ),
    Case(
        "SD0354",
        "spectrum_top_fraction",
        FSDP1 + "spectrum_top_fraction: 0.2\n",
        FSDP2 + "spectrum_top_fraction: 0.2\n",
    ),
    Case(
        "SD0355",
        "load_in_8bit",
        FSDP2 + LORA + "load_in_8bit: true\nrl: orpo\n",
        FSDP2 + LORA + "load_in_8bit: true\nrl: simpo\nrl_beta: 2\n",
    ),
    idle(
        "SD0356",
        "gradient_checkpointing",
        QLORA + "deepspeed: {zero_optimization: {stage: 3}}\ngradient_checkpointing: true\n",
        QLORA + "deepspeed: {zero_optimization: {stage: 2}}\ngradient_checkpointing: true\n",
    ),
    Case(
        "SD0357",
        "gradient_checkpointing_kwargs.use_reentrant",
        QLORA + ZERO2 + "rl: dpo\n" + CHECKPOINTING + "true\n",
        QLORA + "rl: dpo\n" + CHECKPOINTING + "true\n",
    ),
    Case(
        "SD0358",
        "micro_batch_size",
        SHARED + "sample_packing: true\nmicro_batch_size: 2\n",
        SHARED + "micro_batch_size: 2\n",
    ),
    Case(
        "SD0358",
        "ring_attn_func",
        SHARED + "sample_packing: true\nring_attn_func: batch_ring\n",
        SHARED + "sample_packing: true\nring_attn_func: varlen_llama3\n",
    ),
    Case(
        "SD0358",
        "context_parallel_size",
        "context_parallel_size: 4\n" + FLEX,
        "context_parallel_size: 4\nuse_glm_dsa_kernels: true\n" + FLEX,
    ),
    idle(
        "SD0359",
        "ring_attn_func",
        "context_parallel_size: 1\nring_attn_func: batch_ring\n",
        SHARED + "ring_attn_func: batch_ring\n",
    ),
    idle(
        "SD0359",
        "heads_k_stride",
        SHARED + "ring_attn_func: batch_ring\nheads_k_stride: 2\n",
        SHARED + "heads_k_stride: 2\n",
    ),
    idle("SD0359", "ray_num_workers", "ray_num_workers: 4\n", "use_ray: true\nray_num_workers: 4\n"),
]

EXPERT_RULES = [
    Case("SD0360", "quantize_moe_experts", EXPERTS, EXPERTS + "load_in_8bit: true\n"),
    Case(
        "SD0720",
        "torch_compile",
        EXPERTS + "load_in_8bit: true\ntorch_compile: true\n",
        EXPERTS + "load_in_8bit: true\n",
    ),
    Case(
        "SD0720",
        "layer_offloading",
        EXPERTS + "load_in_8bit: true\nlayer_offloading: true\ngradient_checkpointing: true\n",
        EXPERTS + "load_in_8bit: true\ngradient_checkpointing: true\n",
    ),
    Case(
        "SD0721",
        "lora_target_parameters",
        EXPERTS + "load_in_8bit: true\nlora_target_parameters: [experts.down_proj]\n",
        EXPERTS
        + "load_in_8bit: true\nlora_target_parameters: [experts.down_proj]\ngradient_checkpointing: true\n",
        "warning",
    ),
    Case(
        "SD0361",
        "nvfp4_merge_aware_start_step",
        "nvfp4_merge_aware_start_step: 100\n",
        AWARE + "nvfp4_merge_aware_start_step: 100\n",
    ),
    Case("SD0361", "nvfp4_merge_aware", "nvfp4_merge_aware: true\nexpert_backend: sonicmoe\n", AWARE),
    Case("SD0361", "lora_o_kernel", AWARE + "lora_o_kernel: true\n", AWARE + "lora_o_kernel: false\n"),
    idle(
        "SD0362",
        "moe_dequant_chunk_size",
        QLORA + "moe_dequant_chunk_size: 8\n",
        EXPERTS + "load_in_8bit: true\nmoe_dequant_chunk_size: 8\n",
    ),
    idle(
        "SD0362",
        "expert_parallel_token_capacity",
        "expert_parallel_token_capacity: 9\n",
        "expert_parallel_size: 2\nexpert_parallel_token_capacity: 9\n",
    ),
    Case(
        "SD0363",
        "experts_implementation",
        "experts_implementation: eager\nexpert_backend: sonicmoe\n",
        "experts_implementation: grouped_mm\nexpert_backend: builtin\n",
    ),
    Case(
        "SD0363",
        "experts_implementation",
        "experts_implementation: sonicmoe\nexpert_backend: scattermoe\n",
        "experts_implementation: deep_ep_sonicmoe\nexpert_backend: sonicmoe\n",
    ),
    Case("SD0364", "lora_target_linear", LORA + "use_dsv4_kernels: true\n", "use_dsv4_kernels: true\n"),
    Case(
        "SD0366",
        "gemma4_nf4_nonexpert",
        "nonexpert_quantization: bf16\ngemma4_nf4_nonexpert: true\n",
        "nonexpert_quantization: nf4\ngemma4_nf4_nonexpert: true\n",
    ),
]

PLUGINS = [
    Case("SD0367", "use_swanlab", "use_swanlab: true\nswanlab_project: ' '\n", "swanlab_project: pets\n"),
    idle("SD0368", "swanlab_api_host", "swanlab_api_host: a\n", "swanlab_mode: disabled\n"),
    idle(
        "SD0369",
        "kd_online_topk",
        "kd_trainer: true\nkd_online_topk: 9\n",
        "kd_trainer: true\nkd_online_topk: 9\nkd_online_server_base_url: http://teacher\n",
    ),
    Case("SD0371", "nemo_gym_enabled", GYM.replace("auto_start: false", "auto_start: true"), GYM),
    Case("SD0371", "nemo_gym_enabled", "rl: grpo\nnemo_gym_enabled: true\nnemo_gym_auto_start: false\n", GYM),
    Case(
        "SD0371",
        "nemo_gym_multi_turn",
        GYM + "nemo_gym_multi_turn: true\n",
        GYM + "nemo_gym_multi_turn: true\ntrl:\n  use_vllm: true\n",
    ),
    idle("SD0371", "nemo_gym_enabled", GYM.replace("rl: grpo\n", ""), GYM.replace("grpo", "gdpo")),
]

CASES = [*ADAPTERS, *PREFERENCES, *OPTIMIZERS, *ATTENTION, *DISTRIBUTED, *EXPERT_RULES, *PLUGINS]


def problems_of(text: str) -> list[Diagnostic]:
    """The problems but that a key is not built yet."""
    return without_unbuilt(check(text))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_reports_the_text_that_breaks_it_and_nothing_else(case: Case):
    (problem,) = problems_of(case.bad)
    assert (problem.code, problem.key, problem.severity) == (case.code, case.key, case.severity)
    assert problem.fix.endswith(".")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_passes_the_text_that_keeps_it(case: Case):
    assert problems_of(case.good) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_points_at_a_line_of_the_file(case: Case):
    (problem,) = problems_of(case.bad)
    parts = [part for part in problem.key.split(".") if not part.isdigit()]
    assert parts[-1] in problem.line_text or parts[0] in problem.line_text


def test_a_part_of_each_broken_branch_of_experts_is_reported():
    problems = problems_of("quantize_moe_experts: true\n")
    assert [problem.key for problem in problems] == ["quantize_moe_experts"] * 2


def test_the_way_out_of_a_batch_without_whole_groups_is_named():
    (problem,) = problems_of(GRPO + "  num_generations: 8\nmicro_batch_size: 6\n")
    assert "gradient_accumulation_steps: 4" in problem.fix


def test_a_key_under_its_old_name_is_seen_by_a_rule():
    text = "flash_attention: true\ncontext_parallel_size: 2\n"
    assert [problem.code for problem in problems_of(text)] == ["SD0009"]


# Keys without effect


def test_several_keys_without_effect_are_one_warning_that_names_them():
    (finding,) = find_idle_keys(RaySection(ray_run_name="a", ray_num_workers=4), keys_but(RaySection), "`x`")
    assert finding.key == "ray_run_name"
    assert finding.message == "`ray_run_name` and `ray_num_workers` have no effect without `x`"
    assert finding.fix == "Set `x`, or remove the keys."
    assert finding.severity == "warning"


def test_one_key_without_effect_is_spoken_of_as_one():
    (finding,) = find_useless_keys(RaySection(ray_num_workers=4), ("ray_num_workers",), "here", prefix="a.")
    assert finding.key == "a.ray_num_workers"
    assert finding.message == "`a.ray_num_workers` has no effect here"
    assert finding.fix == "Remove the key."


def test_keys_that_are_not_set_are_no_finding():
    assert list(find_idle_keys(RaySection(), keys_but(RaySection), "`x`")) == []
    assert keys_set(RaySection(), keys_but(RaySection)) == ()


def test_all_keys_of_a_section_but_some_are_found():
    assert keys_but(RaySection, "use_ray") == ("ray_run_name", "ray_num_workers", "resources_per_worker")


@pytest.mark.parametrize(
    ("number", "shown"),
    [(1, "`a`"), (2, "`a` and `b`"), (3, "`a`, `b` and `c`"), (6, "`a`, `b`, `c`, `d` and 2 more")],
)
def test_keys_are_listed_as_a_sentence_does(number: int, shown: str):
    assert list_keys(list("abcdef"[:number])) == shown
