"""The beginning and the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from siredon.distributed.ranks import num_ranks
from siredon.hardware import Hardware
from siredon.log import note, show, warn
from siredon.model.adapter_folder import free_of_start_
from siredon.train.callbacks.progress import show_time
from siredon.train.callbacks.relora import save_trained
from siredon.train.plot import plot_losses
from siredon.train.record import extend_record
from siredon.train.trainer import SiredonTrainer


def warn_of_idle_devices(hardware: Hardware) -> None:
    """One process uses one GPU; more GPUs need more processes."""
    if hardware.num_devices > 1 and num_ranks() == 1:
        warn(
            f"this machine has {hardware.num_devices} GPUs and this run uses one; for all of them: "
            f"torchrun --nproc-per-node {hardware.num_devices} -m siredon train CONFIG"
        )


def finish_run(trainer: SiredonTrainer, base: Any, record: Path, seconds: float) -> None:
    """Writes the weights, tokenizer, plot and record, and says where they are.

    Args:
        trainer: After training.
        base: The model of transformers inside; its generation config is saved with an adapter too.
        record: `run.json`.
        seconds: How long training took.
    """
    folder = record.parent
    base.config.use_cache = True
    base.generation_config.use_cache = True
    save_trained(trainer, folder)
    if not trainer.is_world_process_zero():
        return
    free_of_start_(folder)
    base.generation_config.save_pretrained(str(folder))
    plotted = plot_losses(folder / "metrics.jsonl", folder / "loss.png")
    finished = {
        "num_steps": trainer.state.global_step,
        "num_tokens": trainer.num_tokens_seen,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(trainer.num_tokens_seen / max(seconds, 1e-9), 1),
        "last_metrics": _last_metrics(folder / "metrics.jsonl"),
    }
    extend_record(record, finished=finished)
    note(f"trained {trainer.num_tokens_seen:,} tokens in {show_time(seconds)}")
    is_adapter = (folder / "adapter_config.json").is_file()
    show(f"{'adapter' if is_adapter else 'model'}:   {folder}")
    if plotted:
        show(f"loss plot: {folder / 'loss.png'}")
    show(f"metrics:   {folder / 'metrics.jsonl'}")
    show(f"record:    {record}")


def _last_metrics(path: Path) -> dict[str, float]:
    last: dict[str, float] = {}
    for line in path.read_text().splitlines():
        last |= json.loads(line)
    return last
