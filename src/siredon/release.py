"""The second half of the map: one function per verb that follows training, each a numbered list of stages.

Stages are imported by the verb that runs them, so that the command line answers at once.
"""

from __future__ import annotations

from siredon.config.schema import Config
from siredon.evaluate.wanted import Benchmark, Evaluation
from siredon.export.merge_wanted import UNCHECKED, USUAL, Merge
from siredon.export.wanted import Wanted
from siredon.log import show
from siredon.registry import Shelf
from siredon.serve.prompts import Prompts

EXPORTS = Shelf("siredon.export.formats", "EXPORT", "--format", "exports")


def evaluate(config: Config, wanted: Evaluation) -> None:
    """Measures models on rows: a table, and files beside the model."""
    from siredon.evaluate.candidates import choose_folder
    from siredon.evaluate.report import publish_results
    from siredon.evaluate.score import judge_models
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    # 1. Models, one after the other; their losses by data set; their answers, and the scores of these
    hardware = probe_hardware()
    folder = choose_folder(config, wanted.output, "evaluation")
    results = judge_models(config, wanted, hardware, folder)
    # 2. Table and files
    publish_results(results, folder, config.checkpoint.output_folder)


def lm_eval(config: Config, wanted: Benchmark) -> None:
    """Asks models the tasks of lm-evaluation-harness: a table, and files beside the model."""
    from siredon.evaluate.benchmarks import publish_marks, run_benchmarks
    from siredon.evaluate.candidates import choose_folder, name_by_time
    from siredon.hardware import probe_hardware, release_memory
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    # 1. Tasks; models, one after the other, and what they answer
    hardware = probe_hardware()
    release_memory(hardware)  # of a training run before it
    folder = wanted.output or name_by_time(choose_folder(config, None, "lm_eval_results"))
    marks = run_benchmarks(config, wanted, hardware, folder)
    # 2. Table and files
    publish_marks(marks, folder)


def inference(config: Config, prompts: Prompts) -> None:
    """Answers one prompt, several, or a loop of them."""
    from siredon.data.prompt import build_prompting
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries
    from siredon.serve.chat import answer_prompts, compare_prompts, run_prompt_loop
    from siredon.serve.load import load_base, load_tuned

    quiet_libraries()
    # 1. Base model, tuned model, or both in one
    hardware = probe_hardware()
    tuned = None if prompts.base else load_tuned(config, hardware)
    base = load_base(config, hardware, tuned) if prompts.base or prompts.compare else None
    # 2. How a prompt is asked
    engine = tuned or base
    assert engine is not None
    render = build_prompting(config.first_dataset, config.tokenizer, engine.tokenizer).render
    # 3. Answers
    if base and tuned:
        compare_prompts(base, tuned, render, prompts.texts, prompts.sampling)
    elif prompts.texts:
        answer_prompts(engine, render, prompts.texts, prompts.sampling)
    else:
        run_prompt_loop(engine, render, prompts.sampling)


def merge_lora(config: Config, wanted: Merge = USUAL) -> None:
    """Merges the adapter of the run into its base: a normal model folder in `output_dir/merged`."""
    from siredon.export.folder import copy_record, written_beside
    from siredon.export.merge import find_changes, merge_adapters
    from siredon.export.merge_base import load_merge_tokenizer
    from siredon.export.report import write_report
    from siredon.export.verify import verify_merge
    from siredon.hardware import probe_hardware
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    # 1. Adapters
    output = config.checkpoint.output_folder
    changes = find_changes(config.adapter, output, wanted.adapters)
    # 2. Merge, in fp32, and write in the format the run trained in
    tokenizer, hardware = load_merge_tokenizer(config), probe_hardware()
    with written_beside(output / "merged") as draft:
        method = merge_adapters(config, changes, tokenizer, hardware, draft)
        # 3. Does it say what base and adapter say?
        asked = (config, changes, draft, tokenizer, hardware, wanted.max_kl)
        verified = verify_merge(*asked) if wanted.verify else None
        # 4. What others must know of it
        write_report(config, changes, method, verified, draft)
        copy_record(changes[-1].folder, draft)
    show(f"merged model: {output / 'merged'}")


def merge_unchecked(config: Config) -> None:
    """The same for those who hold the merged model against the adapter themselves."""
    merge_lora(config, UNCHECKED)


def export(config: Config, wanted: Wanted) -> None:
    """Writes the model in a format that other programs read, and reads it back before it is in its place."""
    from siredon.export.source import find_source
    from siredon.model.quiet import quiet_libraries

    quiet_libraries()
    # 1. Format
    write = EXPORTS.load(wanted.format)
    # 2. Whole weights: of a full fine-tune, or of an adapter that is merged
    source = find_source(config, merge_lora)
    # 3. Written, read back, compared
    show(f"{wanted.format}: {write(source, wanted)}")
