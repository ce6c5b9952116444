"""The beginning and the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.integrations import TensorBoardCallback

from siredon.distributed.ranks import num_ranks
from siredon.errors import Interrupted
from siredon.hardware import Hardware
from siredon.log import note, show, warn
from siredon.model.adapter_folder import free_of_start_
from siredon.train.callbacks.profiler import Profiler
from siredon.train.callbacks.progress import Progress, show_time
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


def run_training(trainer: SiredonTrainer, resume: Path | None) -> None:
    """Trains, and leaves no bar on the screen and no tracker open, however it ends.

    Raises:
        Interrupted: The run was asked to end.
    """
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except Interrupted:
        for callback in trainer.callback_handler.callbacks:
            # Only these: others load the best weights, or write the adapter's start, as at a real end
            if isinstance(callback, (Profiler, TensorBoardCallback)):
                callback.on_train_end(trainer.args, trainer.state, trainer.control)
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Progress):
                callback.close()


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
