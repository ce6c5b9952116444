"""What a key means for a run that goes on from a checkpoint: every key that works has one kind.

A section has a kind, and some of its keys have another.  A key that is added to a section has that of the section,
which is `fixed` wherever training is decided.
"""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.schema import Config, KeyInfo, key_homes
from siredon.redaction import redact_values

#: `free`: no part of what is trained.  `fixed`: must stay as it was.  `data`: the fingerprint of the prepared data
#: decides, and the key says why it differs.  `model`: the fingerprint of the weights decides.  `length`: by how many
#: optimizer steps the run has.  `batch`: by the sequences of a step.  `rate`: the peak is the checkpoint's.
#: `watched`: may change, and what is decided by metrics or compared with them may differ.  `rounding`: may change, and
#: sums are made in another order.
Kind = Literal["free", "fixed", "data", "model", "length", "batch", "rate", "watched", "rounding"]

_SECTIONS: dict[str, Kind] = {
    "model": "fixed",
    "placement": "rounding",
    "tokenizer": "fixed",
    "embedding": "fixed",
    "data": "data",
    "streaming": "data",
    "packing": "data",
    "loader": "free",
    "adapter": "fixed",
    "relora": "fixed",
    "lisa": "fixed",
    "freezing": "fixed",
    "quantization": "fixed",
    "experts": "fixed",
    "batch": "fixed",
    "optimizer": "fixed",
    "dion": "fixed",
    "qgalore": "fixed",
    "grokfast": "fixed",
    "schedule": "fixed",
    "loss": "fixed",
    "preference": "fixed",
    "reference": "fixed",
    "online": "fixed",
    "reward": "fixed",
    "precision": "fixed",
    "memory": "rounding",
    "compile": "rounding",
    "attention": "rounding",
    "kernels": "rounding",
    "liger": "rounding",
    "distributed": "fixed",
    "fsdp": "fixed",
    "deepspeed": "fixed",
    "expert_parallel": "fixed",
    "checkpoint": "free",
    "hub": "free",
    "evaluation": "free",
    "lm_eval": "free",
    "generation": "free",
    "stopping": "free",
    "bad_steps": "watched",
    "logging": "free",
    "profiler": "free",
    "wandb": "free",
    "mlflow": "free",
    "comet": "free",
    "trackio": "free",
    "swanlab": "free",
    "metrics": "free",
    "serving": "free",
    "plugins": "fixed",
    "file": "free",
}
_KEYS: dict[str, Kind] = {
    "base_model": "model",
    "quantization": "free",
    "model_revision": "model",
    "reference_model": "model",
    "reference_revision": "model",
    "reference_adapter": "model",
    "trust_remote_code": "free",
    "allow_pickle": "free",
    "chat_template": "data",
    "chat_template_jinja": "data",
    "chat_template_kwargs": "data",
    "default_system_message": "data",
    "eot_tokens": "data",
    "tokenizer_save_jinja_files": "free",
    "dataset_prepared_path": "free",
    "test_datasets": "watched",
    "eval_sequence_len": "watched",
    "eval_sample_packing": "watched",
    "lora_on_cpu": "free",
    "relora_cpu_offload": "free",
    "merge_base": "free",
    "experts_implementation": "rounding",
    "micro_batch_size": "batch",
    "gradient_accumulation_steps": "batch",
    "eval_batch_size": "free",
    "num_epochs": "length",
    "max_steps": "length",
    "learning_rate": "rate",
    "torch_empty_cache_steps": "free",
    "gc_collect_steps": "free",
    "gpu_memory_limit": "free",
    "metric_for_best_model": "watched",
    "load_best_model_at_end": "watched",
    "greater_is_better": "watched",
    "early_stopping_patience": "watched",
    "loss_watchdog_threshold": "watched",
    "chunked_cross_entropy": "rounding",
    "chunked_cross_entropy_num_chunks": "rounding",
    "cut_cross_entropy": "rounding",
    "loss_watchdog_patience": "watched",
    "precompute_ref_log_probs": "rounding",
    "log_entropy": "free",
    "log_kl": "free",
}
#: A schedule that looks at the validations makes these a part of the training.
_DECIDE_PLATEAUS = (
    "eval_strategy",
    "eval_steps",
    "evals_per_epoch",
    "metric_for_best_model",
    "greater_is_better",
    "test_datasets",
    "eval_sequence_len",
)


def find_kind(info: KeyInfo) -> Kind | None:
    """The kind of a key at the top level; None where nobody has said one, as for some keys that are not built."""
    return _KEYS.get(info.name) or _SECTIONS.get(info.section)


def kind_in(config: Config, info: KeyInfo) -> Kind:
    """The kind of a key in a run: a few keys mean more beside others."""
    if info.name in _DECIDE_PLATEAUS and config.schedule.lr_scheduler == "reduce_lr_on_plateau":
        return "fixed"
    if info.name == "learning_rate" and config.schedule.reads_peak:
        return "fixed"
    kind = find_kind(info)
    assert kind is not None, f"{info.name} has no kind in resume_kinds.py"
    return kind


def list_working() -> tuple[KeyInfo, ...]:
    """Every key at the top level that works."""
    return tuple(info for info in key_homes().values() if info.status == "works")


def collect_compared(config: Config) -> dict[str, Any]:
    """Key -> value, as JSON and without secrets, of every key that is compared when a run goes on."""
    values = config.model_dump(mode="json")
    return {
        info.name: redact_values(values[info.section][info.attribute], info.name)
        for info in list_working()
        if kind_in(config, info) != "free"
    }
