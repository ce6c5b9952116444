"""The rules about data, batches, schedule, saving, validation, formats, memory, models and reports."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.unit.config.texts import DATASETS, MINIMAL, MODEL, accept, check, without_unbuilt

from siredon.config.diagnostics import Diagnostic
from siredon.config.load import all_rules

VALIDATION = "val_set_size: 0.1\n"
ROWS = "test_datasets:\n  - path: rows.jsonl\n    type: alpaca\n"
SECOND = "  - path: more.jsonl\n    type: alpaca\n"
MIXED = "    weight: 2\n" + SECOND + "mix_strategy: first_exhausted\n"
LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
STREAM = "streaming: true\nmax_steps: 100\n"
WEIGHTED = "max_steps: 100\npretraining_dataset:\n  - path: texts.jsonl\n    weight: 2\n"
PRETRAINING = "pretraining_dataset:\n  - path: texts.jsonl\nmax_steps: 100\n"
PACKING = "sample_packing: true\n"
EARLY = VALIDATION + "early_stopping_patience: 3\n"
BEST = VALIDATION + "save_strategy: best\n"
FP8 = "fp8: true\ntorch_compile: true\n"
GATHER = "fp8_enable_fsdp_float8_all_gather: true\n"
QAT = "qat:\n  weight_dtype: int4\n"
FLAGS = "torch_compile_options:\n  shape_padding: true\n"
RECOMPUTING = "gradient_checkpointing: true\n"
REENTRANT = RECOMPUTING + "gradient_checkpointing_kwargs:\n  use_reentrant: true\n"
UNFROZEN = "unfrozen_parameters: [layers.3]\n"
MISTRAL = "tokenizer_use_mistral_common: true\n"


@dataclass(frozen=True)
class Case:
    """A text that breaks a rule at `key`, and one like it that keeps every rule."""

    code: str
    key: str
    bad: str
    good: str
    severity: str = "error"


def warning(code: str, key: str, bad: str, good: str) -> Case:
    return Case(code, key, bad, good, "warning")


DATA = [
    Case(
        "SD0201",
        "push_dataset_to_hub",
        "push_dataset_to_hub: a/b\nhf_use_auth_token: false\n",
        "push_dataset_to_hub: a/b\nhf_use_auth_token: true\n",
    ),
    Case(
        "SD0202",
        "dataset_exact_deduplication",
        STREAM + "dataset_exact_deduplication: true\n",
        "dataset_exact_deduplication: true\n",
    ),
    Case(
        "SD0202",
        "dataset_exact_deduplication",
        PRETRAINING + "dataset_exact_deduplication: true\n",
        PRETRAINING + "dataset_exact_deduplication: false\n",
    ),
    Case(
        "SD0202",
        "dataset_exact_deduplication",
        "skip_prepare_dataset: true\ndataset_exact_deduplication: true\n",
        "skip_prepare_dataset: false\ndataset_exact_deduplication: true\n",
    ),
    Case(
        "SD0203",
        "dataset_shard_idx",
        "dataset_shard_idx: 1\n",
        "dataset_shard_idx: 1\ndataset_shard_num: 2\n",
    ),
    Case(
        "SD0203",
        "dataset_shard_idx",
        "dataset_shard_num: 2\ndataset_shard_idx: 2\n",
        "dataset_shard_num: 2\ndataset_shard_idx: 0\n",
    ),
    Case(
        "SD0203",
        "dataset_shard_idx",
        "dataset_shard_num: 2\ndataset_shard_idx: -1\n",
        "dataset_shard_num: 2\ndataset_shard_idx: 1\n",
    ),
    Case("SD0203", "datasets.0.shards_idx", "    shards_idx: 1\n", "    shards_idx: 1\n    shards: 2\n"),
    Case("SD0203", "datasets.0.shards_idx", "    shards_idx: 9\n    shards: 9\n", "    shards: 9\n"),
    Case("SD0203", "test_datasets.0.shards_idx", ROWS + "    shards_idx: 1\n", ROWS + "    shards: 2\n"),
    Case("SD0204", "min_sample_len", "min_sample_len: 513\n", "min_sample_len: 512\n"),
    Case("SD0205", "val_set_size", "val_set_size: 2.5\n", "val_set_size: 2.0\n"),
    Case(
        "SD0206",
        "remove_unused_columns",
        "skip_prepare_dataset: true\nremove_unused_columns: true\n",
        "skip_prepare_dataset: true\n",
    ),
    warning(
        "SD0207",
        "push_dataset_to_hub",
        STREAM + "push_dataset_to_hub: a/b\nhf_use_auth_token: true\n",
        "push_dataset_to_hub: a/b\nhf_use_auth_token: true\n",
    ),
    warning(
        "SD0207",
        "num_dataset_shards_to_save",
        "skip_prepare_dataset: true\nnum_dataset_shards_to_save: 4\n",
        "num_dataset_shards_to_save: 4\n",
    ),
    Case("SD0208", "use_pose", "use_pose: true\n", "use_pose: true\npose_max_context_len: 512\n"),
    Case(
        "SD0208",
        "pose_max_context_len",
        "use_pose: true\npose_max_context_len: 511\n",
        "use_pose: true\npose_max_context_len: 1024\n",
    ),
    warning("SD0270", "datasets.0.weight", "    weight: 2\n", ""),
    warning("SD0270", "datasets.0.weight", "    weight: 1\n" + SECOND, MIXED),
    warning("SD0270", "test_datasets.0.weight", ROWS + "    weight: 2\n", ROWS),
    warning("SD0271", "mix_strategy", "mix_strategy: all_exhausted\n", MIXED),
    warning("SD0271", "mix_strategy", "mix_strategy: first_exhausted\n", "mix_strategy: concatenate\n"),
    Case(
        "SD0272",
        "mix_strategy",
        MIXED + "curriculum_sampling: true\nshuffle_merged_datasets: false\n",
        MIXED + "curriculum_sampling: false\n",
    ),
    Case("SD0209", "streaming", "streaming: true\n", STREAM),
    Case("SD0209", "pretraining_dataset", "pretraining_dataset:\n  - path: a.jsonl\n", PRETRAINING),
    Case("SD0210", "val_set_size", STREAM + VALIDATION, STREAM + ROWS),
    Case("SD0210", "val_set_size", PRETRAINING + "val_set_size: 5\n", PRETRAINING + "val_set_size: 0.0\n"),
    warning("SD0211", "group_by_length", PRETRAINING + "group_by_length: true\n", "group_by_length: true\n"),
    Case(
        "SD0212",
        "include_tokens_per_second",
        PRETRAINING + "include_tokens_per_second: true\n",
        STREAM + "include_tokens_per_second: true\n",
    ),
    Case("SD0275", "pretraining_dataset.0.weight", WEIGHTED, PRETRAINING),
    warning(
        "SD0213",
        "streaming_multipack_buffer_size",
        "streaming_multipack_buffer_size: 5\n",
        PRETRAINING + "streaming_multipack_buffer_size: 5\n",
    ),
    warning(
        "SD0213",
        "pretrain_multipack_attn",
        STREAM + PACKING + "pretrain_multipack_attn: false\n",
        PRETRAINING + PACKING + "pretrain_multipack_attn: false\n",
    ),
    warning(
        "SD0213",
        "pretraining_sample_concatenation",
        PRETRAINING + PACKING + "pretraining_sample_concatenation: true\n",
        PRETRAINING + "pretraining_sample_concatenation: true\n",
    ),
]

BATCHES = [
    Case(
        "SD0214",
        "batch_size",
        "batch_size: 8\ngradient_accumulation_steps: 1\n",
        "batch_size: 8\nmicro_batch_size: 4\n",
    ),
    Case(
        "SD0215", "batch_size", "batch_size: 2\nmicro_batch_size: 4\n", "batch_size: 4\nmicro_batch_size: 4\n"
    ),
    warning("SD0216", "pad_to_sequence_len", PACKING + "pad_to_sequence_len: false\n", PACKING),
    warning("SD0216", "pad_to_multiple_of", PACKING + "pad_to_multiple_of: 64\n", "pad_to_multiple_of: 64\n"),
    warning(
        "SD0216",
        "pad_to_multiple_of",
        "pad_to_sequence_len: true\npad_to_multiple_of: 64\n",
        "pad_to_sequence_len: true\n",
    ),
    Case(
        "SD0217",
        "group_by_length",
        "curriculum_sampling: true\ngroup_by_length: true\n",
        "curriculum_sampling: false\ngroup_by_length: true\n",
    ),
    warning(
        "SD0217",
        "shuffle_merged_datasets",
        "curriculum_sampling: true\nshuffle_merged_datasets: true\n",
        "curriculum_sampling: true\n",
    ),
    warning(
        "SD0217",
        "shuffle_before_merging_datasets",
        "curriculum_sampling: true\nshuffle_before_merging_datasets: true\n",
        "shuffle_before_merging_datasets: true\nshuffle_merged_datasets: true\n",
    ),
    warning(
        "SD0218", "group_by_length", PACKING + "group_by_length: true\n", PACKING + "group_by_length: false\n"
    ),
    Case(
        "SD0219",
        "dataloader_prefetch_factor",
        "dataloader_prefetch_factor: 2\ndataloader_num_workers: 0\n",
        "dataloader_prefetch_factor: 2\ndataloader_num_workers: 1\n",
    ),
]

SCHEDULES = [
    warning(
        "SD0220",
        "warmup_steps",
        "max_steps: 5\nwarmup_steps: 6\n",
        "max_steps: 5\nwarmup_steps: 5\n",
    ),
    warning(
        "SD0221",
        "warmup_steps",
        "lr_scheduler: constant\nwarmup_steps: 5\n",
        "lr_scheduler: constant\nwarmup_steps: 0\n",
    ),
    warning(
        "SD0221",
        "warmup_ratio",
        VALIDATION + "lr_scheduler: reduce_lr_on_plateau\nwarmup_ratio: 0.1\n",
        VALIDATION + "lr_scheduler: reduce_lr_on_plateau\n",
    ),
    warning(
        "SD0222",
        "lr_quadratic_warmup",
        "lr_scheduler: linear\nlr_quadratic_warmup: true\n",
        "lr_quadratic_warmup: true\n",
    ),
    warning(
        "SD0222",
        "cosine_constant_lr_ratio",
        "cosine_constant_lr_ratio: 0.8\n",
        "cosine_constant_lr_ratio: 0.8\ncosine_min_lr_ratio: 0.1\n",
    ),
    warning(
        "SD0223",
        "jagged_restart_anneal_steps",
        "jagged_restart_anneal_steps: 5\n",
        "jagged_restart_anneal_steps: 5\njagged_restart_steps: 15\n",
    ),
    warning("SD0224", "jagged_restart_steps", "jagged_restart_steps: 10\n", "jagged_restart_steps: 11\n"),
    Case(
        "SD0225",
        "lr_scheduler",
        "lr_scheduler: cosine_with_min_lr\n",
        "lr_scheduler: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr: 0\n",
    ),
    Case(
        "SD0225",
        "lr_scheduler_kwargs.min_lr_rate",
        "lr_scheduler: cosine_warmup_with_min_lr\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\n  min_lr: 1e-6\n",
        "lr_scheduler: cosine_warmup_with_min_lr\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\n",
    ),
    Case(
        "SD0225",
        "lr_scheduler_kwargs.min_lr_rate",
        "lr_scheduler: rex\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\n  min_lr: 1e-6\n",
        "lr_scheduler: rex\nlr_scheduler_kwargs:\n  min_lr: 1e-6\n",
    ),
    Case(
        "SD0650",
        "lr_scheduler_kwargs.min_lr",
        "lr_scheduler_kwargs:\n  min_lr: 1e-6\n",
        "lr_scheduler: rex\nlr_scheduler_kwargs:\n  min_lr: 1e-6\n",
    ),
    Case(
        "SD0650",
        "lr_scheduler_kwargs.num_cycles",
        "lr_scheduler: linear\nlr_scheduler_kwargs:\n  num_cycles: 2\n",
        "lr_scheduler: cosine_with_restarts\nlr_scheduler_kwargs:\n  num_cycles: 2\n",
    ),
    Case(
        "SD0651",
        "lr_scheduler_kwargs.num_cycles",
        "lr_scheduler: cosine_with_restarts\nlr_scheduler_kwargs:\n  num_cycles: 1.5\n",
        "lr_scheduler: cosine\nlr_scheduler_kwargs:\n  num_cycles: 1.5\n",
    ),
    Case(
        "SD0651",
        "lr_scheduler_kwargs.decay_type",
        "lr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 9\n  decay_type: sqrt\n",
        "lr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 9\n  decay_type: 1-sqrt\n",
    ),
    Case(
        "SD0652",
        "lr_scheduler_kwargs.min_lr",
        "lr_scheduler: rex\nlr_scheduler_kwargs:\n  min_lr: 1e-4\n",
        "lr_scheduler: rex\nlr_scheduler_kwargs:\n  min_lr: 9e-5\n",
    ),
    warning(
        "SD0654",
        "warmup_ratio",
        "lr_scheduler: one_cycle\nwarmup_ratio: 0.1\nlr_scheduler_kwargs:\n  pct_start: 0.3\n",
        "lr_scheduler: one_cycle\nwarmup_ratio: 0.1\n",
    ),
]

SAVING = [
    Case(
        "SD0226",
        "early_stopping_patience",
        "early_stopping_patience: 3\n",
        ROWS + "early_stopping_patience: 3\n",
    ),
    Case(
        "SD0226", "early_stopping_patience", EARLY + "eval_strategy: 'no'\n", EARLY + "eval_strategy: epoch\n"
    ),
    Case(
        "SD0226",
        "load_best_model_at_end",
        "load_best_model_at_end: true\n",
        VALIDATION + "load_best_model_at_end: true\n",
    ),
    Case(
        "SD0226",
        "lr_scheduler",
        "lr_scheduler: reduce_lr_on_plateau\n",
        VALIDATION + "lr_scheduler: reduce_lr_on_plateau\n",
    ),
    Case("SD0226", "save_strategy", BEST + "eval_strategy: 'no'\n", BEST + "eval_strategy: epoch\n"),
    Case("SD0227", "save_strategy", EARLY + "save_strategy: 'no'\n", EARLY + "save_strategy: epoch\n"),
    Case("SD0227", "saves_per_epoch", EARLY + "saves_per_epoch: 0\n", EARLY + "saves_per_epoch: 4\n"),
    Case(
        "SD0227",
        "save_strategy",
        VALIDATION + "load_best_model_at_end: true\neval_steps: 50\nsave_strategy: 'no'\n",
        VALIDATION + "load_best_model_at_end: true\neval_steps: 50\nsave_steps: 70\n",
    ),
    Case(
        "SD0158",
        "save_strategy",
        EARLY + "eval_steps: 5\nsave_strategy: steps\n",
        EARLY + "evals_per_epoch: 5\n",
    ),
    warning(
        "SD0228",
        "metric_for_best_model",
        VALIDATION + "metric_for_best_model: eval_loss\n",
        EARLY + "metric_for_best_model: eval_loss\n",
    ),
    warning(
        "SD0228",
        "greater_is_better",
        VALIDATION + "greater_is_better: true\n",
        EARLY + "greater_is_better: false\n",
    ),
    Case(
        "SD0229",
        "greater_is_better",
        EARLY + "greater_is_better: true\nmetric_for_best_model: loss\n",
        EARLY
        + "do_causal_lm_eval: true\neval_causal_lm_metrics: [chrf]\n"
        + "greater_is_better: true\nmetric_for_best_model: eval_chrf\n",
    ),
    Case(
        "SD0229",
        "greater_is_better",
        EARLY + "greater_is_better: true\nmetric_for_best_model: perplexity\n",
        EARLY + "greater_is_better: false\nmetric_for_best_model: perplexity\n",
    ),
    Case(
        "SD0269",
        "metric_for_best_model",
        EARLY + "metric_for_best_model: eval_accuracy\n",
        EARLY + "metric_for_best_model: loss\n",
    ),
    Case(
        "SD0226",
        "save_strategy",
        ROWS + "save_strategy: best\nevals_per_epoch: 0\n",
        ROWS + "save_strategy: best\nevals_per_epoch: 1\n",
    ),
    Case("SD0230", "save_safetensors", "save_safetensors: false\n", "save_safetensors: true\n"),
    warning(
        "SD0231",
        "save_strategy",
        "hub_model_id: a/b\nsave_strategy: 'no'\nhub_strategy: every_save\n",
        "hub_model_id: a/b\nsave_strategy: 'no'\nhub_strategy: end\n",
    ),
    Case("SD0880", "hub_model_id", "hub_model_id: a/b--c\n", "hub_model_id: a/b-c_d.e\n"),
    Case("SD0880", "hub_model_id", "hub_model_id: a/b.git\n", "hub_model_id: b\n"),
    Case("SD0880", "hub_model_id", "hub_model_id: a/b/c\n", "hub_model_id: a/b\n"),
    warning(
        "SD0232",
        "save_only_model",
        "save_only_model: true\nauto_resume_from_checkpoints: true\n",
        "save_only_model: true\n",
    ),
]

EVALUATION = [
    Case("SD0233", "do_bench_eval", "do_bench_eval: true\n", VALIDATION + "do_bench_eval: true\n"),
    Case(
        "SD0233",
        "do_bench_eval",
        VALIDATION + "do_bench_eval: true\neval_strategy: 'no'\n",
        VALIDATION + "do_bench_eval: true\neval_strategy: epoch\n",
    ),
    Case("SD0154", "eval_steps", "eval_steps: 5\n", "do_bench_eval: true\neval_steps: 5\n"),
    Case(
        "SD0233",
        "generate_samples",
        ROWS + "generate_samples: true\nevals_per_epoch: 0\n",
        ROWS + "generate_samples: true\nevals_per_epoch: 1\n",
        "warning",
    ),
    Case(
        "SD0233",
        "do_causal_lm_eval",
        "do_causal_lm_eval: true\nval_set_size: 0\n",
        ROWS + "do_causal_lm_eval: true\n",
    ),
    warning("SD0233", "generate_samples", "generate_samples: true\n", ROWS + "generate_samples: true\n"),
    warning("SD0233", "eval_table_size", "eval_table_size: 3\n", ROWS + "eval_table_size: 3\n"),
    Case(
        "SD0276",
        "eval_causal_lm_metrics",
        ROWS + "do_causal_lm_eval: true\neval_causal_lm_metrics: [comet, ter]\n",
        ROWS + "do_causal_lm_eval: true\n",
    ),
]

FORMATS = [
    Case("SD0235", "float32", "bf16: true\nfloat32: true\n", "bf16: auto\nfloat32: true\n"),
    Case("SD0235", "fp16", "bf16: full\nfp16: true\n", "bf16: full\nbfloat16: true\n"),
    Case(
        "SD0235",
        "float16",
        "bfloat16: true\nfloat16: true\n",
        "fp16: true\nfloat16: true\nadam_epsilon: 1e-4\n",
    ),
    warning("SD0236", "fp8", "fp8: true\ntorch_compile: false\n", "fp8: true\ntorch_compile: auto\n"),
    warning(
        "SD0237",
        "fsdp_config.activation_checkpointing",
        FP8 + "fsdp_version: 2\nfsdp_config:\n  activation_checkpointing: true\n",
        "fsdp_version: 2\nfsdp_config:\n  activation_checkpointing: true\n",
    ),
    Case(
        "SD0238",
        "fp8_enable_fsdp_float8_all_gather",
        GATHER + "fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n",
        FP8 + GATHER + "fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n",
    ),
    Case(
        "SD0238",
        "fp8_enable_fsdp_float8_all_gather",
        FP8 + GATHER,
        FP8 + GATHER + "fsdp_config:\n  fsdp_version: 2\n",
    ),
    Case("SD0239", "qat", QAT + LORA + "load_in_8bit: true\n", QAT),
    Case("SD0240", "torch_compile_options", FLAGS, FLAGS + "torch_compile: true\n"),
    Case(
        "SD0810",
        "torch_compile_options",
        "deterministic: true\ntorch_compile: true\ntorch_compile_options:\n  max_autotune_gemm: true\n",
        "deterministic: true\ntorch_compile: true\ntorch_compile_options:\n  max_autotune_gemm: false\n",
    ),
    warning(
        "SD0240",
        "torch_compile_mode",
        "torch_compile_mode: default\n",
        "torch_compile: true\ntorch_compile_mode: default\n",
    ),
    warning(
        "SD0240",
        "torch_compile_backend",
        "torch_compile_backend: inductor\n",
        "torch_compile: auto\ntorch_compile_backend: inductor\n",
    ),
    Case(
        "SD0241",
        "torch_compile_options",
        FLAGS + "torch_compile: true\ntorch_compile_backend: aot_eager\n",
        "torch_compile: true\ntorch_compile_backend: aot_eager\n",
    ),
    Case(
        "SD0241",
        "torch_compile_mode",
        FLAGS + "torch_compile: true\ntorch_compile_mode: default\n",
        "torch_compile: true\ntorch_compile_mode: default\n",
    ),
    warning(
        "SD0242",
        "torch_compile_options",
        PACKING + "torch_compile: true\ntorch_compile_options:\n  triton.cudagraphs: true\n",
        PACKING + "torch_compile: true\ntorch_compile_options:\n  triton.cudagraphs: false\n",
    ),
]

MEMORY = [
    Case(
        "SD0243",
        "gradient_checkpointing_kwargs.use_reentrant",
        UNFROZEN + REENTRANT,
        UNFROZEN + RECOMPUTING,
    ),
    Case(
        "SD0244",
        "activation_offloading",
        "activation_offloading: disk\n",
        RECOMPUTING + "activation_offloading: disk\n",
    ),
    warning(
        "SD0245",
        "activation_offloading",
        LORA + RECOMPUTING + "activation_offloading: hidden_states\n",
        RECOMPUTING + "activation_offloading: hidden_states\n",
    ),
    Case(
        "SD0246",
        "selective_checkpointing",
        "selective_checkpointing:\n  offload: true\n",
        RECOMPUTING + "selective_checkpointing:\n  offload: true\n",
    ),
    Case(
        "SD0246",
        "gradient_checkpointing_kwargs.use_reentrant",
        REENTRANT + "selective_checkpointing: true\n",
        REENTRANT + "selective_checkpointing: false\n",
    ),
    Case(
        "SD0246",
        "activation_offloading",
        RECOMPUTING + "selective_checkpointing: true\nactivation_offloading: true\n",
        RECOMPUTING + "selective_checkpointing: true\nactivation_offloading: hidden_states\n",
    ),
    Case(
        "SD0247",
        "selective_checkpointing.save",
        LORA + RECOMPUTING + "selective_checkpointing:\n  save: [attention, 'aten::addmm.default']\n",
        RECOMPUTING + "selective_checkpointing:\n  save: [attention, 'aten::addmm.default']\n",
    ),
    Case(
        "SD0247",
        "selective_checkpointing.save",
        LORA + RECOMPUTING + "selective_checkpointing:\n  save: matmul\n",
        LORA + RECOMPUTING + "selective_checkpointing: true\n",
    ),
    Case(
        "SD0248",
        "selective_checkpointing",
        RECOMPUTING + "selective_checkpointing: true\ntorch_compile: auto\n",
        RECOMPUTING + "torch_compile: auto\n",
    ),
    Case(
        "SD0680",
        "gradient_checkpointing_every_n_layers",
        "gradient_checkpointing_every_n_layers: 2\n",
        "gradient_checkpointing: true\ngradient_checkpointing_every_n_layers: 2\n",
    ),
    Case(
        "SD0682",
        "selective_checkpointing.save",
        RECOMPUTING + "selective_checkpointing:\n  save: aten.native_dropout\n",
        RECOMPUTING + "attn_implementation: eager\nselective_checkpointing:\n  save: aten.silu\n",
    ),
    Case(
        "SD0683",
        "layer_offloading",
        LORA + "layer_offloading: true\ntorch_compile: true\n",
        LORA + "layer_offloading: true\n",
    ),
    Case(
        "SD0683",
        "layer_offloading",
        LORA + "layer_offloading: true\nrelora: true\njagged_restart_steps: 500\n",
        LORA + "relora: true\njagged_restart_steps: 500\n",
    ),
    warning("SD0685", "fp32_norms", "float32: true\nfp32_norms: true\n", "bf16: full\nfp32_norms: true\n"),
    Case(
        "SD0686",
        "adam_epsilon",
        "float16: true\nadam_epsilon: 1e-8\n",
        "float16: true\nadam_epsilon: 1e-4\n",
    ),
    Case(
        "SD0688",
        "attn_implementation",
        "float32: true\nattn_implementation: flash_attention_3\n",
        "bf16: false\nfp16: true\nattn_implementation: flash_attention_3\n",
    ),
]

MODELS = [
    Case(
        "SD0249",
        "chat_template",
        "chat_template: llama3\nchat_template_jinja: a.jinja\n",
        "chat_template: llama3\n",
    ),
    Case(
        "SD0249",
        "datasets.0.chat_template",
        "    chat_template: llama3\n    chat_template_jinja: a.jinja\n",
        "    chat_template_jinja: a.jinja\nchat_template: llama3\n",
    ),
    Case(
        "SD0249",
        "test_datasets.0.chat_template",
        ROWS + "    chat_template: llama3\n    chat_template_jinja: a.jinja\n",
        ROWS + "    chat_template_jinja: a.jinja\n",
    ),
    warning(
        "SD0250",
        "default_system_message",
        "default_system_message: Hi\n",
        "  - path: chats.jsonl\n    type: chat_template\ndefault_system_message: Hi\n",
    ),
    Case("SD0251", "tokens", MISTRAL + "tokens: ['<a>']\n", "tokens: ['<a>']\n"),
    Case(
        "SD0251",
        "added_tokens_overrides",
        MISTRAL + "added_tokens_overrides:\n  5: <a>\n",
        "added_tokens_overrides:\n  5: <a>\n",
    ),
    Case(
        "SD0251",
        "chat_template",
        MISTRAL + "chat_template: chatml\n",
        MISTRAL + "chat_template: tokenizer_default\n",
    ),
    Case(
        "SD0251",
        "processor_kwargs",
        MISTRAL + "processor_kwargs:\n  a: 1\n",
        MISTRAL + "special_tokens: {}\n",
    ),
    Case("SD0252", "reward_model", "rl: dpo\nreward_model: true\n", "reward_model: true\n"),
    Case(
        "SD0253",
        "num_labels",
        "reward_model: true\nnum_labels: 2\n",
        "process_reward_model: true\nnum_labels: 2\n",
    ),
    Case(
        "SD0254",
        "model_type",
        "reward_model: true\nmodel_type: LlamaForCausalLM\n",
        "reward_model: true\nmodel_type: LlamaForSequenceClassification\n",
    ),
    Case(
        "SD0254",
        "model_type",
        "process_reward_model: true\nmodel_type: AutoModelForCausalLM\n",
        "process_reward_model: true\n",
    ),
    warning("SD0255", "reinit_weights", LORA + "reinit_weights: true\n", LORA + "reinit_weights: false\n"),
]

REPORTS = [
    warning(
        "SD0256", "wandb_entity", "wandb_entity: me\nwandb_name: a\n", "use_wandb: true\nwandb_entity: me\n"
    ),
    warning(
        "SD0256",
        "mlflow_run_name",
        "mlflow_run_name: a\n",
        "mlflow_experiment_name: b\nmlflow_run_name: a\n",
    ),
    warning(
        "SD0256", "comet_workspace", "comet_workspace: a\n", "comet_project_name: b\ncomet_workspace: a\n"
    ),
    warning(
        "SD0256", "trackio_space_id", "trackio_space_id: a/b\n", "use_trackio: true\ntrackio_space_id: a/b\n"
    ),
    Case(
        "SD0257",
        "comet_mode",
        "use_comet: true\ncomet_mode: get\n",
        "use_comet: true\ncomet_mode: create\n",
    ),
    warning(
        "SD0258",
        "profiler_steps_start",
        "profiler_steps_start: 5\n",
        "profiler_steps_start: 5\nprofiler_steps: 5\n",
    ),
    warning("SD0258", "otel_metrics_host", "otel_metrics_host: a\n", "wandb_mode: disabled\n"),
]

SWITCHES = [
    warning("SD0259", "pose_num_chunks", "pose_num_chunks: 4\n", "use_pose: false\n"),
    warning(
        "SD0260",
        "sample_packing_group_size",
        PACKING + "sample_packing_group_size: 500\nsample_packing_sequentially: true\n",
        PACKING + "sample_packing_group_size: 500\n",
    ),
    warning(
        "SD0260",
        "sample_packing_group_size",
        PACKING + "sample_packing_group_size: 500\ncurriculum_sampling: true\n",
        PACKING
        + "sample_packing_group_size: 500\ncurriculum_sampling: true\nsample_packing_sequentially: false\n",
    ),
    warning(
        "SD0260",
        "multipack_real_batches",
        "multipack_real_batches: true\n",
        VALIDATION + "eval_sample_packing: true\nmultipack_real_batches: true\n",
    ),
    warning(
        "SD0261", "generation_do_sample", "generation_do_sample: false\n", "generation_max_new_tokens: 128\n"
    ),
    warning(
        "SD0262",
        "eval_causal_lm_metrics",
        VALIDATION + "eval_causal_lm_metrics: [chrf]\n",
        VALIDATION + "do_causal_lm_eval: true\neval_causal_lm_metrics: [chrf]\n",
    ),
    warning(
        "SD0263", "loss_watchdog_patience", "loss_watchdog_patience: 5\n", "loss_watchdog_threshold: 5\n"
    ),
    warning("SD0264", "hub_revision", "hub_revision: main\n", "hub_model_id: a/b\nhub_revision: main\n"),
    warning(
        "SD0265",
        "center_rewards_coefficient",
        "process_reward_model: true\ncenter_rewards_coefficient: 0.1\n",
        "reward_model: true\ncenter_rewards_coefficient: 0.1\n",
    ),
    warning(
        "SD0266",
        "tiled_mlp_use_original_mlp",
        "tiled_mlp_use_original_mlp: false\n",
        "tiled_mlp: true\ntiled_mlp_use_original_mlp: false\n",
    ),
    warning(
        "SD0267",
        "gradient_checkpointing_kwargs",
        "gradient_checkpointing_kwargs:\n  use_reentrant: true\n",
        "gradient_checkpointing_kwargs:\n  use_reentrant: true\n"
        "fsdp_version: 2\nfsdp_config:\n  activation_checkpointing: true\n",
    ),
    warning(
        "SD0268",
        "dynamic_checkpoint.check_interval",
        "dynamic_checkpoint:\n  enabled: false\n  check_interval: 5\n",
        "dynamic_checkpoint:\n  enabled: true\n",
    ),
]

CASES = [*DATA, *BATCHES, *SCHEDULES, *SAVING, *EVALUATION, *FORMATS, *MEMORY, *MODELS, *REPORTS, *SWITCHES]


def problems_of(text: str) -> list[Diagnostic]:
    """The problems of a text after the least configuration, but that a key is not built yet."""
    return without_unbuilt(check(text))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_reports_the_text_that_breaks_it_and_nothing_else(case: Case):
    problems = problems_of(case.bad)
    assert [(problem.code, problem.key, problem.severity) for problem in problems] == [
        (case.code, case.key, case.severity)
    ]
    assert problems[0].message
    assert problems[0].fix.endswith(".")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_passes_the_text_that_keeps_it(case: Case):
    assert problems_of(case.good) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_points_at_a_line_of_the_file(case: Case):
    (problem,) = problems_of(case.bad)
    assert problem.key.rpartition(".")[2] in problem.line_text


def test_every_rule_of_these_codes_has_a_case():
    codes = {rule.code for rule in all_rules() if "SD0200" < rule.code < "SD0300"}
    assert codes
    assert codes <= {case.code for case in CASES}


def test_all_texts_of_a_stream_have_a_weight_or_none_has():
    other = "  - path: other.jsonl\n"
    assert check(WEIGHTED + other + "    weight: 1\n", MODEL).diagnostics == ()
    assert check(PRETRAINING, MODEL).diagnostics == ()
    (problem,) = check(WEIGHTED + other, MODEL).diagnostics
    assert (problem.code, problem.key) == ("SD0275", "pretraining_dataset.0.weight")
    assert "another entry" in problem.message


def test_a_path_alone_is_a_text_to_stream():
    for written in ("texts.jsonl", "[texts.jsonl]", "[{path: texts.jsonl}]"):
        config = accept(f"pretraining_dataset: {written}\nmax_steps: 5\n", MODEL)
        assert [entry.path for entry in config.streaming.texts] == ["texts.jsonl"]
        assert config.first_dataset.type == "pretrain"


def test_settings_without_their_switch_are_named_together():
    (problem,) = problems_of("wandb_name: a\nwandb_watch: all\n")
    assert "`wandb_name`" in problem.message
    assert "`wandb_watch`" in problem.message


def test_all_that_mistral_common_refuses_is_reported_at_once():
    problems = problems_of(MISTRAL + "tokens: ['<a>']\nspecial_tokens:\n  pad_token: <pad>\n")
    assert [problem.key for problem in problems] == ["tokens", "special_tokens"]


#: Settings as they stand together in files that people run with Axolotl.
CORRECT = {
    "streamed and packed": STREAM + PACKING + "streaming_multipack_buffer_size: 10000\nsave_steps: 100\n",
    "streamed pretraining": PRETRAINING + PACKING + "pretrain_multipack_attn: true\nsaves_per_epoch: 1\n",
    "cosine that does not fall": "cosine_constant_lr_ratio: 0\ncosine_min_lr_ratio: 1.0\nwarmup_steps: 10\n",
    "reward model": "reward_model: true\nnum_labels: 1\nmodel_type: AutoModelForSequenceClassification\n",
    "steps of reasoning": "process_reward_model: true\nnum_labels: 2\n"
    "model_type: AutoModelForTokenClassification\nremove_unused_columns: false\n",
    "images": "skip_prepare_dataset: true\nremove_unused_columns: false\nwandb_mode: disabled\n",
    "trackers left empty": "wandb_project:\nwandb_entity:\nwandb_watch:\nwandb_name:\nwandb_log_model:\n",
    "early stopping": EARLY
    + "eval_steps: 50\nsave_steps: 100\nload_best_model_at_end: true\ngreater_is_better: false\n",
    "first of several parts": "dataset_shard_num: 4\ndataset_shard_idx: 0\n",
    "prefetching": "dataloader_num_workers: 2\ndataloader_prefetch_factor: 4\ndataloader_pin_memory: true\n",
}


@pytest.mark.parametrize("name", CORRECT)
def test_settings_that_belong_together_break_no_rule(name: str):
    assert problems_of(CORRECT[name]) == []


def test_the_texts_begin_where_an_entry_of_the_data_ends():
    assert MINIMAL.endswith(DATASETS)
