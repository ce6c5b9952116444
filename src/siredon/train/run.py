"""The beginning and the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.integrations import TensorBoardCallback

from siredon.distributed.ranks import num_ranks
from siredon.errors import Interrupted, explain_lost_process
from siredon.hardware import Hardware, is_out_of_memory
from siredon.log import is_main_process, note, show, warn
from siredon.model.adapter_folder import free_of_start_
from siredon.train.callbacks.metrics import keep_lines
from siredon.train.callbacks.profiler import Profiler
from siredon.train.callbacks.progress import Progress, show_time
from siredon.train.callbacks.relora import save_trained
from siredon.train.callbacks.stall import StallWatch
from siredon.train.callbacks.start import StartKeeper
from siredon.train.checkpoint import count_steps_done, count_tokens_done, publish_checkpoint
from siredon.train.fingerprint import hash_result
from siredon.train.memory_guard import Failure, read_failure
from siredon.train.plot import plot_losses
from siredon.train.publish import RESULT, name_draft, open_draft, publish_result
from siredon.train.record import extend_record
from siredon.train.rollback import RolledBack
from siredon.train.saving import write_files
from siredon.train.space import explain_disk
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
        RolledBack: A bad step sends the run back.
        TrainingError: Memory has run out, or a process that fetches batches was killed.
    """
    failure: Failure | None = None
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except (Interrupted, RolledBack):
        for callback in trainer.callback_handler.callbacks:
            # Only these: others load the best weights, or write the adapter's start, as at a real end
            if isinstance(callback, (Profiler, TensorBoardCallback)):
                callback.on_train_end(trainer.args, trainer.state, trainer.control)
        raise
    except (RuntimeError, MemoryError) as error:
        if lost := explain_lost_process(error):
            raise lost from error
        if trainer.memory_guard is None or not is_out_of_memory(error):
            raise
        failure = read_failure(error, trainer.memory_guard.hardware)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, (Progress, StallWatch)):
                callback.close()
    if failure is not None and trainer.memory_guard is not None:
        # Outside of the handler: the exception would hold what did not fit
        raise trainer.memory_guard.end(failure)


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
    if base.can_generate():
        base.generation_config.use_cache = True
    with explain_disk(folder):
        write_result(trainer, base, folder)
    if not trainer.is_world_process_zero():
        return
    plotted = plot_losses(folder / "metrics.jsonl", folder / "loss.png")
    finished = {
        "num_steps": trainer.state.global_step,
        "num_tokens": trainer.num_tokens_seen,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(trainer.num_tokens_seen / max(seconds, 1e-9), 1),
        "last_metrics": _last_metrics(folder / "metrics.jsonl"),
        "weights": hash_result(folder),
    }
    extend_record(record, finished=finished)
    note(f"trained {trainer.num_tokens_seen:,} tokens in {show_time(seconds)}")
    is_adapter = (folder / "adapter_config.json").is_file()
    show(f"{'adapter' if is_adapter else 'model'}:   {folder}")
    if plotted:
        show(f"loss plot: {folder / 'loss.png'}")
    show(f"metrics:   {folder / 'metrics.jsonl'}")
    show(f"record:    {record}")


def write_result(trainer: SiredonTrainer, base: Any, folder: Path) -> None:
    """Writes what the run has made beside its place, and moves it there once it is whole.

    Args:
        trainer: After training.
        base: The model of transformers inside; its generation config is saved with an adapter too.
        folder: `output_dir`.
    """
    is_first = trainer.is_world_process_zero()
    draft = open_draft(folder / RESULT) if is_first else name_draft(folder / RESULT)
    save_trained(trainer, draft)
    if not is_first:
        return
    for part in trainer.callback_handler.callbacks:
        if isinstance(part, StartKeeper):
            write_files(draft, part.files)
    free_of_start_(draft)
    if base.can_generate():
        base.generation_config.save_pretrained(str(draft))
    publish_result(draft)


def make_good(result: Path, last: Path, output: Path) -> None:
    """Ends a run that was killed after its last checkpoint: weights, plot, and what is known of it.

    Args:
        result: The checkpoint with the run's result.
        last: The last one.
        output: `output_dir`.

    Raises:
        CheckpointError: The result cannot be told from the checkpoint, or not be written.
    """
    publish_checkpoint(result, output)
    show(f"nothing to do: {output} has all {count_steps_done(last):,} steps behind it")
    record, metrics = output / "run.json", output / "metrics.jsonl"
    if not is_main_process() or not record.is_file() or "finished" in json.loads(record.read_text()):
        return
    keep_lines(metrics, count_steps_done(last))
    plot_losses(metrics, output / "loss.png")
    finished = {
        "num_steps": count_steps_done(last),
        "num_tokens": count_tokens_done(last),
        "last_metrics": _last_metrics(metrics),
        "weights": hash_result(output),
    }
    extend_record(record, finished=finished)


def _last_metrics(path: Path) -> dict[str, float]:
    last: dict[str, float] = {}
    for line in path.read_text().splitlines():
        last |= json.loads(line)
    return last
