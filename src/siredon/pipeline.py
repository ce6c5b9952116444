"""The map: one function per verb up to the end of training, each a numbered list of stages.

`release.py` is its second half: what becomes of a trained model.

Stages are imported by the verb that runs them, so that `check` never loads torch.  Libraries are quieted before that:
some talk as they are imported, and one asks a hub for code.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from siredon.config.schema import Config
from siredon.log import is_main_process, note, show, warn
from siredon.registry import Shelf
from siredon.sweep.wanted import Sweep

if TYPE_CHECKING:
    from siredon.config.layers import Layer
    from siredon.data.inspect import Choice
    from siredon.data.inspect_output import Output
    from siredon.export.uploads import Uploads
    from siredon.selftest.wanted import Wanted
    from siredon.train.interrupt import Interruption
    from siredon.train.reproduce import Repeat
    from siredon.train.rollback import Rewind

METHODS = Shelf("siredon.train.methods", "METHOD", "rl")
SEARCHES = Shelf("siredon.sweep.searches", "SEARCH", "--sweep-search")


def preprocess(config: Config) -> None:
    """Prepares the data and reports what became of it."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.data.prepare_run import prepare_run
    from siredon.model.tokenizer import load_tokenizer

    # 1. Tokenizer
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    # 2. Data: rows -> samples -> packs, cached
    prepare_run(config, tokenizer)
    # 3. Report
    show(f"prepared data: {config.data.dataset_prepared_path}")


def inspect(config: Config, wanted: Choice, output: Output) -> bool:
    """Shows prepared data as training sees it; False if training could not start on it."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.data.inspect import check_prepared_ahead, inspect_data
    from siredon.data.inspect_output import show_inspection
    from siredon.data.prepare import Preparation
    from siredon.model.tokenizer import load_tokenizer

    # 1. Tokenizer
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    # 2. Data, prepared as for training; the rows that are looked at, token by token
    check_prepared_ahead(config.streaming)
    preparation = Preparation(
        tokenizer, config.tokenizer, config.data, config.batch.seed, formats=config.preference.formats
    )
    inspection = inspect_data(preparation, config.packing, wanted)
    # 3. On the terminal, as a page, or as JSON
    show_inspection(inspection, output)
    return not inspection.problem


def kernels(config: Config, *, as_json: bool) -> None:
    """Shows which fused kernels a training would take on this machine, and why."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.data.prompt import set_prompting_
    from siredon.hardware import probe_hardware
    from siredon.model.build import build_model
    from siredon.model.kernel_table import show_kernels
    from siredon.model.precision import resolve_precision
    from siredon.model.tokenizer import load_tokenizer
    from siredon.train.chunked_loss import report_loss

    # 1. The model, as training builds it
    hardware = probe_hardware()
    precision = resolve_precision(config.precision, hardware, has_adapter=config.adapter.adapter is not None)
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    stop_ids = set_prompting_(tokenizer, config).stop_ids
    built = build_model(config, tokenizer, stop_ids, precision, hardware)
    # 2. The loss, which is chosen by its trainer; table
    loss = report_loss(built.model, built.base, config, hardware, precision)
    show_kernels([*built.kernels.rows, loss], hardware, as_json=as_json)


def train(config: Config) -> None:
    """Trains, and writes adapter or model, checkpoints, metrics, plot and run record to `output_dir`.

    Raises:
        Interrupted: A signal or `max_time` ended it; what was done is saved.
    """
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.export.uploads import open_uploads
    from siredon.train.determinism import deterministic_run
    from siredon.train.interrupt import interruptible_run
    from siredon.train.rollback import run_with_rollbacks

    with open_uploads(config) as uploads:
        with interruptible_run(config) as interruption, deterministic_run(config.batch):
            run_with_rollbacks(lambda rewind: _train(config, interruption, rewind, uploads))
        _hand_over(config, uploads)
        if config.lm_eval.lm_eval_tasks and config.lm_eval.lm_eval_post_train:
            _judge(config)
            _hand_over(config, uploads)


def _hand_over(config: Config, uploads: Uploads | None) -> None:
    """The card of what was trained; the result on the hub, if it is to be there."""
    from siredon.export.card import try_card

    if is_main_process():
        try_card(config.checkpoint.output_folder)
    if uploads:
        uploads.finish()


def _judge(config: Config) -> None:
    """The tasks that the file names, asked of what was trained."""
    from siredon.distributed.ranks import num_ranks
    from siredon.evaluate.wanted import Benchmark
    from siredon.release import lm_eval

    if num_ranks() > 1:
        warn(
            "`lm_eval_tasks` are not run after a training of several processes: `siredon lm-eval CONFIG` runs them"
        )
    else:
        lm_eval(config, Benchmark())


def _train(config: Config, interruption: Interruption, rewind: Rewind, uploads: Uploads | None) -> None:
    from siredon.data.prepare_run import prepare_run
    from siredon.data.prompt import set_prompting_
    from siredon.distributed.ranks import leave_ranks
    from siredon.evaluate.metric import load_scores
    from siredon.hardware import probe_hardware
    from siredon.model.build import build_model
    from siredon.model.precision import resolve_precision
    from siredon.model.tokenizer import load_tokenizer
    from siredon.train.arguments import count_steps
    from siredon.train.equip import Parts
    from siredon.train.facts import Run
    from siredon.train.finished import find_result
    from siredon.train.record import identify_run, write_record
    from siredon.train.rollback import find_start
    from siredon.train.run import finish_run, make_good, run_training, warn_of_idle_devices
    from siredon.train.space import check_writable

    # 1. Hardware and number formats
    hardware = probe_hardware()
    precision = resolve_precision(config.precision, hardware, has_adapter=config.adapter.adapter is not None)
    warn_of_idle_devices(hardware)
    check_writable(config.checkpoint.output_folder)
    scores = load_scores(config.evaluation)
    # 2. Tokenizer and data
    tokenizer = load_tokenizer(config.tokenizer, config.model)
    prepared = prepare_run(config, tokenizer)
    schedule = count_steps(config, prepared.num_packs)
    # 3. The checkpoint to go on from, if there is one
    identity = identify_run(config, prepared, precision.describe(), hardware.describe())
    resume = find_start(config, identity, rewind)
    output = config.checkpoint.output_folder
    result = find_result(resume, config, schedule.num_steps) if resume else None
    if resume and result:
        make_good(result, resume, output)
        return
    # 4. Model: weights, adapter, what is trained and what is recomputed
    stop_ids = set_prompting_(tokenizer, config).stop_ids
    built = build_model(config, tokenizer, stop_ids, precision, hardware)
    # 5. Trainer, run record, training
    published = uploads.published if uploads else None
    parts = Parts(
        built.model,
        built.base,
        tokenizer,
        prepared,
        identity,
        resume,
        interruption,
        rewind,
        scores,
        published,
    )
    trainer = METHODS.load(config.preference.method)(parts, config, schedule, precision, hardware)
    with interruption.held():
        run = Run(config, tokenizer, prepared, hardware)
        record = write_record(
            run, num_steps=schedule.num_steps, resume=resume, origin=rewind.name_origin(resume)
        )
        interruption.record = record
    note(f"going on from {resume}" if resume else f"output: {output}")
    note(f"training: {schedule.num_steps:,} optimizer steps, {schedule.steps_per_epoch:,} per epoch")
    began = time.perf_counter()
    run_training(trainer, resume)
    # 6. Weights, tokenizer, plot, record
    finish_run(trainer, built.base, record, time.perf_counter() - began)
    leave_ranks()


def reproduce(wanted: Repeat) -> bool:
    """Makes a run again from its `run.json`; False if it came out otherwise."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.hardware import probe_hardware
    from siredon.train import reproduce as stage
    from siredon.train.determinism import deterministic_run

    # 1. Record -> config
    record = stage.read_record(wanted)
    with stage.folder_of(record):
        config = stage.rebuild_config(record, wanted)
        # 2. Is everything here as it was there?
        with deterministic_run(config.batch):
            stage.check_same(record, stage.describe_now(config, probe_hardware()), wanted)
        # 3. The same run; the two results
        if wanted.only_checks:
            return True
        train(config)
        return stage.compare_results(record, wanted)


def sweep(path: str, layer: Layer, wanted: Sweep) -> bool:
    """Trains the file `path` under `layer` once per trial of a sweep; False if a trial failed."""
    from siredon.sweep.check import Checker
    from siredon.sweep.run import check_single_process, hold_folder, run_trials
    from siredon.sweep.space import read_space
    from siredon.sweep.table import Book, show_results

    # 1. Sweep file -> search space -> trials
    check_single_process()
    space = read_space(wanted.file, layer, is_grid=wanted.search == "grid")
    checker = Checker(path, layer, space)
    search = SEARCHES.load(wanted.search)(space, wanted.num_runs, checker.seed)
    # 2. Every trial that is known, checked before the first one runs
    ready = checker.check_all(search.known)
    folder = ready[0].folder
    # 3. Runs, each a process of its own
    with hold_folder(folder) as lock:
        book = Book(folder)
        run_trials(search, checker, book, lock)
    # 4. Table
    show_results(book.records, folder)
    return all(record.status != "failed" for record in book.records)


def selftest(wanted: Wanted) -> bool:
    """Tries out on this machine what must hold of training; False if a row failed."""
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    from siredon.release import merge_unchecked
    from siredon.selftest.show import show_progress, show_table
    from siredon.selftest.table import run_table

    # 1. Rows, each in its cells; 2. table, or JSON
    with show_progress() as say:
        table = run_table(wanted, say, (train, merge_unchecked))
    show_table(table, as_json=wanted.as_json)
    return table.passed
